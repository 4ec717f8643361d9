// What a plugin is to TensorRT beside its kernel: a row of a table, which plugin.cpp turns into
// classes.
#pragma once

#include <NvInfer.h>

#include <cstdint>
#include <vector>

namespace mirnet {

using nvinfer1::DataType;
using nvinfer1::DimsExprs;
using nvinfer1::IExprBuilder;
using nvinfer1::PluginTensorDesc;
using nvinfer1::TensorFormat;

// A node's attributes, in the order of its operation's names. They are written into a plan as they
// lie here, so no pointer may be among them.
struct Attributes {
    static constexpr int most = 4;
    int32_t whole[most] = {};
    float real[most] = {};
};

struct Operation {
    char const* name;
    std::vector<char const*> whole;  // names of its int32 attributes
    std::vector<char const*> real;   // and of its float32 ones
    int inputs, outputs;
    // Whether tensor `at`, inputs first, may be as described; those before it are as they were
    // agreed upon.
    bool (*takes)(int at, PluginTensorDesc const* tensors);
    // Whether an output has the first input's type, or is float32.
    bool (*follows)(int output);
    DimsExprs (*shape)(Attributes const&, int output, DimsExprs const* in, IExprBuilder&);
    // Queues its kernels; 0, or an error of CUDA's.
    int (*queue)(Attributes const&, PluginTensorDesc const* in, PluginTensorDesc const* out,
                 void const* const* from, void* const* to, void* stream);
};

std::vector<Operation> const& operations();

}  // namespace mirnet
