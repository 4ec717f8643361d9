// The operations that a graph for TensorRT may have: tensors, shapes, and which kernel runs.
#include "operations.h"

#include "launch.h"

namespace mirnet {
namespace {

bool is_linear(PluginTensorDesc const& tensor) { return tensor.format == TensorFormat::kLINEAR; }

bool is_vector(PluginTensorDesc const& tensor) {
    return is_linear(tensor) && tensor.type == DataType::kFLOAT;
}

bool is_map(PluginTensorDesc const& tensor) {
    return tensor.format == TensorFormat::kHWC8 && tensor.type == DataType::kHALF;
}

// An image of FP16 or FP32; the second of two has the type of the first.
bool is_image(PluginTensorDesc const& tensor) {
    return is_linear(tensor) &&
           (tensor.type == DataType::kFLOAT || tensor.type == DataType::kHALF);
}

Maps maps_of(PluginTensorDesc const& tensor) {
    auto const& sides = tensor.dims.d;
    return {static_cast<int>(sides[0]), static_cast<int>(sides[1]), static_cast<int>(sides[2]),
            static_cast<int>(sides[3])};
}

int side_of(PluginTensorDesc const& tensor, int axis) {
    return static_cast<int>(tensor.dims.d[axis]);
}

DimsExprs shape_of(std::initializer_list<nvinfer1::IDimensionExpr const*> sides) {
    DimsExprs shape;
    shape.nbDims = 0;
    for (auto const* side : sides) shape.d[shape.nbDims++] = side;
    return shape;
}

nvinfer1::IDimensionExpr const* times(IExprBuilder& builder, nvinfer1::IDimensionExpr const* side,
                                      int factor) {
    return builder.operation(nvinfer1::DimensionOperation::kPROD, *side, *builder.constant(factor));
}

nvinfer1::IDimensionExpr const* divided_by(IExprBuilder& builder,
                                           nvinfer1::IDimensionExpr const* side, int divisor) {
    auto const division = nvinfer1::DimensionOperation::kFLOOR_DIV;
    return builder.operation(division, *side, *builder.constant(divisor));
}

cudaStream_t stream_of(void* stream) { return static_cast<cudaStream_t>(stream); }

// Outputs of the shape of the first input, and as many rows of partial sums as the first attribute.
DimsExprs map_and_partials(Attributes const& attributes, int output, DimsExprs const* in,
                           IExprBuilder& builder) {
    if (output == 0) return in[0];
    return shape_of({in[0].d[0], builder.constant(attributes.whole[0]), in[0].d[1]});
}

// A vector (N, C, 1, 1): images of the first input, columns of the third.
DimsExprs vector_of_columns(Attributes const&, int, DimsExprs const* in, IExprBuilder& builder) {
    auto const* one = builder.constant(1);
    return shape_of({in[0].d[0], in[2].d[1], one, one});
}

// (branch, skip) -> (out, partials), or (branch, skip, context (N, C, 1, 1)) -> the same; rows of
// partials.
template <bool has_context>
Operation residual_sum() {
    return {has_context ? "MirnetContextSum" : "MirnetResidualSum",
            {"rows"},
            {"slope"},
            2 + has_context,
            2,
            [](int at, PluginTensorDesc const* tensors) {
                bool const vector = at == 3 + has_context || (has_context && at == 2);
                return vector ? is_vector(tensors[at]) : is_map(tensors[at]);
            },
            [](int output) { return output == 0; },
            map_and_partials,
            [](Attributes const& attributes, PluginTensorDesc const* in, PluginTensorDesc const*,
               void const* const* from, void* const* to, void* stream) {
                return static_cast<int>(queue_residual_sum(
                    maps_of(in[0]), from[0], from[1],
                    has_context ? static_cast<float const*>(from[2]) : nullptr, to[0],
                    static_cast<float*>(to[1]), attributes.whole[0], attributes.real[0],
                    stream_of(stream)));
            }};
}

// (x, mask) -> (sums (N, rows, C + 4)).
Operation context_rows() {
    return {"MirnetContextRows",
            {"rows"},
            {},
            2,
            1,
            [](int at, PluginTensorDesc const* tensors) {
                return at == 0 ? is_map(tensors[at]) : is_vector(tensors[at]);
            },
            [](int) { return false; },
            [](Attributes const& attributes, int, DimsExprs const* in, IExprBuilder& builder) {
                auto const sum = nvinfer1::DimensionOperation::kSUM;
                return shape_of({in[0].d[0], builder.constant(attributes.whole[0]),
                                 builder.operation(sum, *in[0].d[1], *builder.constant(4))});
            },
            [](Attributes const& attributes, PluginTensorDesc const* in, PluginTensorDesc const*,
               void const* const* from, void* const* to, void* stream) {
                return static_cast<int>(queue_context_rows(
                    maps_of(in[0]), from[0], static_cast<float const*>(from[1]),
                    static_cast<float*>(to[0]), attributes.whole[0], stream_of(stream)));
            }};
}

// (rows, squeeze (C, Z), expand (Z, C)) -> (vector (N, C, 1, 1)); rows are (N, rows, C), or of
// context_rows.
template <auto queue>
Operation vector_of_rows(char const* name) {
    return {name,
            {},
            {"slope"},
            3,
            1,
            [](int at, PluginTensorDesc const* tensors) { return is_vector(tensors[at]); },
            [](int) { return false; },
            vector_of_columns,
            [](Attributes const& attributes, PluginTensorDesc const* in, PluginTensorDesc const*,
               void const* const* from, void* const* to, void* stream) {
                return static_cast<int>(queue(
                    side_of(in[0], 0), side_of(in[2], 1), side_of(in[2], 0), side_of(in[0], 1),
                    static_cast<float const*>(from[0]), static_cast<float const*>(from[1]),
                    static_cast<float const*>(from[2]), static_cast<float*>(to[0]),
                    attributes.real[0], stream_of(stream)));
            }};
}

// (x, weights_1, weights_2) -> (out, partials); rows of partials.
Operation residual_block() {
    return {"MirnetResidualBlock",
            {"rows"},
            {"slope", "last_slope"},
            3,
            2,
            [](int at, PluginTensorDesc const* tensors) {
                return at == 0 || at == 3 ? is_map(tensors[at]) : is_vector(tensors[at]);
            },
            [](int output) { return output == 0; },
            map_and_partials,
            [](Attributes const& attributes, PluginTensorDesc const* in, PluginTensorDesc const*,
               void const* const* from, void* const* to, void* stream) {
                return static_cast<int>(queue_residual_block(
                    maps_of(in[0]), from[0], static_cast<float const*>(from[1]),
                    static_cast<float const*>(from[2]), to[0], static_cast<float*>(to[1]),
                    attributes.whole[0], attributes.real[0], attributes.real[1],
                    stream_of(stream)));
            }};
}

// (y) -> (planes (N, 2, H, W), rows (N, rows, C)); rows of sums.
Operation attention_pools() {
    return {"MirnetAttentionPools",
            {"rows"},
            {},
            1,
            2,
            [](int at, PluginTensorDesc const* tensors) {
                return at == 0 ? is_map(tensors[at]) : is_vector(tensors[at]);
            },
            [](int) { return false; },
            [](Attributes const& attributes, int output, DimsExprs const* in,
               IExprBuilder& builder) {
                if (output == 1) return map_and_partials(attributes, output, in, builder);
                return shape_of({in[0].d[0], builder.constant(2), in[0].d[2], in[0].d[3]});
            },
            [](Attributes const& attributes, PluginTensorDesc const* in, PluginTensorDesc const*,
               void const* const* from, void* const* to, void* stream) {
                return static_cast<int>(queue_attention_pools(
                    maps_of(in[0]), from[0], static_cast<float*>(to[0]),
                    static_cast<float*>(to[1]), attributes.whole[0], stream_of(stream)));
            }};
}

// (y, planes, spatial (2, 5, 5), gate (N, C, 1, 1)) -> (N, 2 C, H, W).
Operation dual_gate() {
    return {"MirnetDualGate",
            {},
            {},
            4,
            1,
            [](int at, PluginTensorDesc const* tensors) {
                return at == 0 || at == 4 ? is_map(tensors[at]) : is_vector(tensors[at]);
            },
            [](int) { return true; },
            [](Attributes const&, int, DimsExprs const* in, IExprBuilder& builder) {
                return shape_of(
                    {in[0].d[0], times(builder, in[0].d[1], 2), in[0].d[2], in[0].d[3]});
            },
            [](Attributes const&, PluginTensorDesc const* in, PluginTensorDesc const*,
               void const* const* from, void* const* to, void* stream) {
                return static_cast<int>(queue_dual_gate(
                    maps_of(in[0]), from[0], static_cast<float const*>(from[1]),
                    static_cast<float const*>(from[2]), static_cast<float const*>(from[3]), to[0],
                    stream_of(stream)));
            }};
}

// (large, small, mix, squeeze, expand) -> (gate (N, C, 1, 1), mean (N, 1, C)).
Operation fusion_gate() {
    return {"MirnetFusionGate",
            {},
            {"slope"},
            5,
            2,
            [](int at, PluginTensorDesc const* tensors) { return is_vector(tensors[at]); },
            [](int) { return false; },
            [](Attributes const&, int output, DimsExprs const* in, IExprBuilder& builder) {
                auto const* one = builder.constant(1);
                auto const* channels = in[0].d[2];
                return output == 0 ? shape_of({in[0].d[0], channels, one, one})
                                   : shape_of({in[0].d[0], one, channels});
            },
            [](Attributes const& attributes, PluginTensorDesc const* in, PluginTensorDesc const*,
               void const* const* from, void* const* to, void* stream) {
                float const* inputs[5];
                for (int i = 0; i < 5; ++i) inputs[i] = static_cast<float const*>(from[i]);
                return static_cast<int>(queue_fusion_gate(
                    side_of(in[0], 0), side_of(in[0], 2), side_of(in[1], 2), side_of(in[3], 1),
                    side_of(in[0], 1), side_of(in[1], 1), inputs, static_cast<float*>(to[0]),
                    static_cast<float*>(to[1]), attributes.real[0], stream_of(stream)));
            }};
}

// (x, small, gate) -> out.
Operation gated_sum() {
    return {"MirnetGatedSum",
            {},
            {},
            3,
            1,
            [](int at, PluginTensorDesc const* tensors) {
                return at == 2 ? is_vector(tensors[at]) : is_map(tensors[at]);
            },
            [](int) { return true; },
            [](Attributes const&, int, DimsExprs const* in, IExprBuilder&) { return in[0]; },
            [](Attributes const&, PluginTensorDesc const* in, PluginTensorDesc const*,
               void const* const* from, void* const* to, void* stream) {
                return static_cast<int>(queue_gated_sum(maps_of(in[0]), from[0], from[1],
                                                        static_cast<float const*>(from[2]), to[0],
                                                        stream_of(stream)));
            }};
}

// (a, b, c) -> (rows); rows of partial sums.
Operation mean_rows() {
    return {"MirnetMeanRows",
            {"rows"},
            {},
            3,
            1,
            [](int at, PluginTensorDesc const* tensors) {
                return at < 3 ? is_map(tensors[at]) : is_vector(tensors[at]);
            },
            [](int) { return false; },
            [](Attributes const& attributes, int, DimsExprs const* in, IExprBuilder& builder) {
                return shape_of({in[0].d[0], builder.constant(attributes.whole[0]), in[0].d[1]});
            },
            [](Attributes const& attributes, PluginTensorDesc const* in, PluginTensorDesc const*,
               void const* const* from, void* const* to, void* stream) {
                return static_cast<int>(queue_mean_rows(maps_of(in[0]), from,
                                                        static_cast<float*>(to[0]),
                                                        attributes.whole[0], stream_of(stream)));
            }};
}

// (rows, squeeze (C, Z), expand (3, Z, C)) -> three gates (N, C, 1, 1).
Operation select_gate() {
    return {"MirnetSelectGate",
            {},
            {"slope"},
            3,
            3,
            [](int at, PluginTensorDesc const* tensors) { return is_vector(tensors[at]); },
            [](int) { return false; },
            [](Attributes const&, int, DimsExprs const* in, IExprBuilder& builder) {
                auto const* one = builder.constant(1);
                return shape_of({in[0].d[0], in[0].d[2], one, one});
            },
            [](Attributes const& attributes, PluginTensorDesc const* in, PluginTensorDesc const*,
               void const* const* from, void* const* to, void* stream) {
                float* gates[3];
                for (int i = 0; i < 3; ++i) gates[i] = static_cast<float*>(to[i]);
                return static_cast<int>(queue_select_gate(
                    side_of(in[0], 0), side_of(in[0], 2), side_of(in[1], 1), side_of(in[0], 1),
                    static_cast<float const*>(from[0]), static_cast<float const*>(from[1]),
                    static_cast<float const*>(from[2]), gates, attributes.real[0],
                    stream_of(stream)));
            }};
}

// (a, b, c, and weights (N, C, 1, 1) for each of them) -> out.
Operation select_sum() {
    return {"MirnetSelectSum",
            {},
            {},
            6,
            1,
            [](int at, PluginTensorDesc const* tensors) {
                return at >= 3 && at < 6 ? is_vector(tensors[at]) : is_map(tensors[at]);
            },
            [](int) { return true; },
            [](Attributes const&, int, DimsExprs const* in, IExprBuilder&) { return in[0]; },
            [](Attributes const&, PluginTensorDesc const* in, PluginTensorDesc const*,
               void const* const* from, void* const* to, void* stream) {
                float const* weights[3];
                for (int i = 0; i < 3; ++i) weights[i] = static_cast<float const*>(from[3 + i]);
                return static_cast<int>(queue_select_sum(maps_of(in[0]), from, weights, to[0],
                                                         stream_of(stream)));
            }};
}

// (image) -> (blocks).
Operation unshuffle() {
    return {"MirnetUnshuffle",
            {"side"},
            {},
            1,
            1,
            [](int at, PluginTensorDesc const* tensors) {
                return at == 0 ? is_image(tensors[at]) : is_map(tensors[at]);
            },
            [](int) { return true; },
            [](Attributes const& attributes, int, DimsExprs const* in, IExprBuilder& builder) {
                int const side = attributes.whole[0];
                return shape_of({in[0].d[0], times(builder, in[0].d[1], side * side),
                                 divided_by(builder, in[0].d[2], side),
                                 divided_by(builder, in[0].d[3], side)});
            },
            [](Attributes const& attributes, PluginTensorDesc const* in, PluginTensorDesc const*,
               void const* const* from, void* const* to, void* stream) {
                bool const half = in[0].type == DataType::kHALF;
                return static_cast<int>(queue_unshuffle(maps_of(in[0]), from[0], half, to[0],
                                                        attributes.whole[0], stream_of(stream)));
            }};
}

// (image, blocks) -> out.
Operation shuffle_add() {
    return {"MirnetShuffleAdd",
            {"side"},
            {},
            2,
            1,
            [](int at, PluginTensorDesc const* tensors) {
                if (at == 1) return is_map(tensors[at]);
                return is_image(tensors[at]) && tensors[at].type == tensors[0].type;
            },
            [](int) { return true; },
            [](Attributes const& attributes, int, DimsExprs const* in, IExprBuilder& builder) {
                int const side = attributes.whole[0];
                return shape_of({in[0].d[0], divided_by(builder, in[1].d[1], side * side),
                                 in[0].d[2], in[0].d[3]});
            },
            [](Attributes const& attributes, PluginTensorDesc const* in, PluginTensorDesc const*,
               void const* const* from, void* const* to, void* stream) {
                int const side = attributes.whole[0];
                bool const half = in[0].type == DataType::kHALF;
                int const channels = side_of(in[1], 1) / (side * side);
                return static_cast<int>(queue_shuffle_add(maps_of(in[0]), from[0], half, from[1],
                                                          to[0], channels, side,
                                                          stream_of(stream)));
            }};
}

}  // namespace

std::vector<Operation> const& operations() {
    static std::vector<Operation> const all = {
        residual_sum<false>(),
        residual_sum<true>(),
        residual_block(),
        context_rows(),
        vector_of_rows<queue_context_vector>("MirnetContextVector"),
        attention_pools(),
        vector_of_rows<queue_channel_gate>("MirnetChannelGate"),
        dual_gate(),
        fusion_gate(),
        gated_sum(),
        mean_rows(),
        select_gate(),
        select_sum(),
        unshuffle(),
        shuffle_add(),
    };
    return all;
}

}  // namespace mirnet
