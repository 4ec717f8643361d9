// Operations as TensorRT's plugins of the V2-dynamic interface, which 8.6 to 11 have, and what the
// library tells of itself.
//
// The library refers to nothing in libnvinfer, so that it is linked against headers alone: TensorRT
// asks it for its creators (IPluginRegistry::loadLibrary).
#include <cstring>
#include <deque>
#include <string>

#include "operations.h"

namespace mirnet {
namespace {

using namespace nvinfer1;

constexpr char const* plugin_version = "1";

class Plugin : public IPluginV2DynamicExt {
  public:
    Plugin(Operation const& operation, Attributes const& attributes)
        : operation_(operation), attributes_(attributes) {}

    IPluginV2DynamicExt* clone() const noexcept override {
        auto* copy = new Plugin(operation_, attributes_);
        copy->namespace_ = namespace_;
        return copy;
    }
    DimsExprs getOutputDimensions(int32_t output, DimsExprs const* inputs, int32_t,
                                  IExprBuilder& builder) noexcept override {
        return operation_.shape(attributes_, output, inputs, builder);
    }
    bool supportsFormatCombination(int32_t at, PluginTensorDesc const* tensors, int32_t,
                                   int32_t) noexcept override {
        return operation_.takes(at, tensors);
    }
    void configurePlugin(DynamicPluginTensorDesc const*, int32_t, DynamicPluginTensorDesc const*,
                         int32_t) noexcept override {}
    size_t getWorkspaceSize(PluginTensorDesc const*, int32_t, PluginTensorDesc const*,
                            int32_t) const noexcept override {
        return 0;
    }
    int32_t enqueue(PluginTensorDesc const* in, PluginTensorDesc const* out,
                    void const* const* from, void* const* to, void*,
                    cudaStream_t stream) noexcept override {
        return operation_.queue(attributes_, in, out, from, to, stream);
    }
    DataType getOutputDataType(int32_t output, DataType const* types,
                               int32_t) const noexcept override {
        return operation_.follows(output) ? types[0] : DataType::kFLOAT;
    }
    char const* getPluginType() const noexcept override { return operation_.name; }
    char const* getPluginVersion() const noexcept override { return plugin_version; }
    int32_t getNbOutputs() const noexcept override { return operation_.outputs; }
    int32_t initialize() noexcept override { return 0; }
    void terminate() noexcept override {}
    size_t getSerializationSize() const noexcept override { return sizeof attributes_; }
    void serialize(void* buffer) const noexcept override {
        std::memcpy(buffer, &attributes_, sizeof attributes_);
    }
    void destroy() noexcept override { delete this; }
    void setPluginNamespace(char const* name) noexcept override { namespace_ = name; }
    char const* getPluginNamespace() const noexcept override { return namespace_.c_str(); }

  private:
    Operation const& operation_;
    Attributes attributes_;
    std::string namespace_;
};

class Creator : public IPluginCreator {
  public:
    explicit Creator(Operation const& operation) : operation_(operation) {
        for (auto const* name : operation.whole) {
            fields_.emplace_back(name, nullptr, PluginFieldType::kINT32, 1);
        }
        for (auto const* name : operation.real) {
            fields_.emplace_back(name, nullptr, PluginFieldType::kFLOAT32, 1);
        }
        listed_.nbFields = static_cast<int32_t>(fields_.size());
        listed_.fields = fields_.data();
    }

    char const* getPluginName() const noexcept override { return operation_.name; }
    char const* getPluginVersion() const noexcept override { return plugin_version; }
    PluginFieldCollection const* getFieldNames() noexcept override { return &listed_; }
    IPluginV2* createPlugin(char const*, PluginFieldCollection const* given) noexcept override {
        Attributes attributes;
        for (int32_t i = 0; i < given->nbFields; ++i) {
            PluginField const& field = given->fields[i];
            read(field, operation_.whole, attributes.whole);
            read(field, operation_.real, attributes.real);
        }
        return made(attributes);
    }
    IPluginV2* deserializePlugin(char const*, void const* data, size_t size) noexcept override {
        Attributes attributes;
        if (size != sizeof attributes) return nullptr;
        std::memcpy(&attributes, data, sizeof attributes);
        return made(attributes);
    }
    void setPluginNamespace(char const* name) noexcept override { namespace_ = name; }
    char const* getPluginNamespace() const noexcept override { return namespace_.c_str(); }

  private:
    template <typename Value>
    static void read(PluginField const& field, std::vector<char const*> const& names,
                     Value* values) {
        for (size_t i = 0; i < names.size(); ++i) {
            if (field.data != nullptr && std::strcmp(field.name, names[i]) == 0) {
                std::memcpy(&values[i], field.data, sizeof values[i]);
            }
        }
    }
    IPluginV2* made(Attributes const& attributes) const {
        auto* plugin = new Plugin(operation_, attributes);
        plugin->setPluginNamespace(namespace_.c_str());
        return plugin;
    }

    Operation const& operation_;
    std::vector<PluginField> fields_;
    PluginFieldCollection listed_{};
    std::string namespace_;
};

}  // namespace
}  // namespace mirnet

#define EXPORTED extern "C" __attribute__((visibility("default")))

// The release whose headers it was compiled with: 8.6.1 is 80601. A library serves the releases of
// one major and minor number; Python compares (mirnet_edge/trt/plugins.py).
EXPORTED int mirnet_plugins_tensorrt() {
    return 10000 * NV_TENSORRT_MAJOR + 100 * NV_TENSORRT_MINOR + NV_TENSORRT_PATCH;
}

EXPORTED nvinfer1::IPluginCreator* const* getPluginCreators(int32_t& count) {
    static std::deque<mirnet::Creator> creators;
    static std::vector<nvinfer1::IPluginCreator*> listed;
    if (listed.empty()) {
        for (auto const& operation : mirnet::operations()) {
            creators.emplace_back(operation);
            listed.push_back(&creators.back());
        }
    }
    count = static_cast<int32_t>(listed.size());
    return listed.data();
}

EXPORTED void setLoggerFinder(nvinfer1::ILoggerFinder*) {}
