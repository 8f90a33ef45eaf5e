"""The operations of torch's dispatcher, each with how it carries units.

Every function that the table names takes the follower and one call of an operation, and returns what is known of each tensor
that it gave. An operation that is not in the table leaves out the units that reach it.
"""

from __future__ import annotations

from functools import partial

from cbp.discovery.arranging import (
    COPIES,
    VIEWS,
    at_strides,
    concatenate,
    constants,
    copy,
    look_up,
    put,
    rearrange,
    view,
    write_at,
)
from cbp.discovery.calls import Call, Operation, unknown, with_weights, without_units
from cbp.discovery.following import Follower
from cbp.discovery.labels import has_units, varying
from cbp.discovery.memory import UNCHANGED, Value
from cbp.discovery.multiplying import convolution, matmul
from cbp.discovery.norms import batch_norm, group_norm, layer_norm
from cbp.discovery.pointwise import elu, hardtanh, pointwise, where
from cbp.discovery.reducing import along_axis, attention, glu, over_axes, pad, positions


def follow(follower: Follower, call: Call) -> list[Value]:
    """What is known of the tensors that a call returned."""
    if OPERATIONS.get(call.name) is constants:
        return constants(follower, call)
    weights = [follower.storages.find(tensor) for tensor in call.tensors]
    values = [follower.memory.value(tensor) for tensor, of in zip(call.tensors, weights, strict=True) if of is None]
    may_multiply = call.name in _MULTIPLYING or call.name not in OPERATIONS
    times_computed = may_multiply and any(value.computed for value in values)
    if any(weights) or times_computed or any(has_units(value.labels) for value in values):
        if call.name not in OPERATIONS:
            return with_weights(follower, call)
        operation = OPERATIONS[call.name]
        if operation in _NORMS and (weights[0] or values[0].computed):  # a layer's standardised weight
            return unknown(follower, call)
        if getattr(operation, "func", operation) in _OF_THE_FIRST:
            for other in call.tensors[1:]:
                if follower.storages.find(other) is None:
                    labels = follower.memory.value(other).labels
                    follower.units.leave_out(labels, f"decide in '{call.name}' what becomes of others")
        return operation(follower, call)
    if call.name in ("cat", "stack"):
        return concatenate(follower, call)
    if _keeps_elements_apart(call, values):
        return OPERATIONS[call.name](follower, call)
    return without_units(call, values)


def _keeps_elements_apart(call: Call, values: list[Value]) -> bool:
    """Whether a call arranges or maps one by one elements of which some depend on inputs and others do not.

    As of inputs beside a state of zeros, where units stand at the next step.
    """
    operation = OPERATIONS.get(call.name)
    operation = getattr(operation, "func", operation)
    looked_at = values[:1] if operation in _ARRANGE else values if operation in _MAP else []
    return any(varying(value.labels) for value in looked_at)


_ARRANGE = {rearrange, view, at_strides}
_MAP = {pointwise, elu, hardtanh, copy}
_NORMS = {batch_norm, layer_norm, group_norm}
_OF_THE_FIRST = {positions, pad, along_axis, over_axes, glu, *_NORMS}


_ACTIVATION_NAMES = """
    relu relu6 leaky_relu tanh sigmoid gelu silu mish softplus hardswish hardsigmoid threshold softshrink hardshrink sin cos
    abs square exp clamp clamp_min clamp_max
"""
_ACTIVATIONS = {
    "_prelu_kernel": "prelu",
    "prelu": "prelu",
    "rrelu_with_noise": "rrelu",
    "rrelu_with_noise_functional": "rrelu",
    "log_sigmoid_forward": "logsigmoid",
    **{name: name for name in _ACTIVATION_NAMES.split()},
}
_OF_ONE = """
    neg expm1 exp2 log log1p log2 log10 sqrt rsqrt erf erfc sign sgn floor ceil round trunc frac reciprocal logit sinc isnan
    isinf
    isfinite logical_not bitwise_not nan_to_num tan atan asin acos sinh cosh asinh acosh atanh digamma lgamma positive bernoulli
    normal
"""
_PRODUCTS = """
    mul div pow masked_fill eq ne gt ge lt le logical_and logical_or bitwise_and bitwise_or atan2 fmod remainder copysign xlogy
    floor_divide true_divide multiply divide
"""
_SUMS = "add sub rsub maximum minimum lerp addcmul addcdiv fmax fmin hypot logaddexp"
_ARRANGING = """
    permute transpose t unsqueeze squeeze select slice split split_with_sizes unsafe_split unsafe_chunk
    unsafe_split_with_sizes
    unbind expand diagonal unfold repeat flip roll index index_select gather tril triu pixel_shuffle pixel_unshuffle
    channel_shuffle view_as_real movedim narrow chunk repeat_interleave rot90
"""
_OVER_AXES = """
    sum mean amax amin max min prod var std var_mean std_mean norm linalg_vector_norm logsumexp any all argmax argmin median
    nansum
"""
_ALONG_AN_AXIS = "_softmax _log_softmax _safe_softmax softmax cumsum cumprod sort topk argsort logcumsumexp"
_OVER_POSITIONS = """
    max_pool{}d_with_indices max_pool{}d avg_pool{}d adaptive_avg_pool{}d _adaptive_avg_pool{}d adaptive_max_pool{}d
    upsample_nearest{}d _upsample_nearest_exact{}d fractional_max_pool{}d
"""
_RESIZING = {
    "upsample_linear1d": 1,
    "upsample_bilinear2d": 2,
    "upsample_bicubic2d": 2,
    "_upsample_bilinear2d_aa": 2,
    "_upsample_bicubic2d_aa": 2,
    "grid_sampler_2d": 2,
    "upsample_trilinear3d": 3,
}
_BATCH_NORMS = """
    native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training cudnn_batch_norm batch_norm
    miopen_batch_norm
    _batch_norm_with_update
"""
_ATTENTION = """
    _scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_flash_attention _scaled_dot_product_efficient_attention
    _scaled_dot_product_cudnn_attention _scaled_dot_product_fused_attention_overrideable
"""
_MULTIPLYING = {"mm", "bmm", "mv", "addmm", "baddbmm", "addmv", "convolution"}
_OF_A_SHAPE = """
    zeros_like ones_like empty_like full_like rand_like randn_like new_zeros new_ones new_empty new_full new_empty_strided zero
"""


def _each(names: str, operation: Operation) -> dict[str, Operation]:
    return dict.fromkeys(names.split(), operation)


OPERATIONS: dict[str, Operation] = {
    **{name: partial(pointwise, activation=activation) for name, activation in _ACTIVATIONS.items()},
    **_each(_OF_ONE, partial(pointwise, activation=None)),
    **_each(_PRODUCTS, partial(pointwise, activation=None)),
    **_each(_SUMS, partial(pointwise, activation=None, added=True)),
    "where": where,
    "elu": elu,
    "hardtanh": hardtanh,
    "native_dropout": partial(pointwise, activation=UNCHANGED),
    **_each(_ARRANGING, rearrange),
    **dict.fromkeys(COPIES, rearrange),
    **dict.fromkeys(VIEWS, view),
    "as_strided": at_strides,
    "copy": copy,
    **_each("index_add index_copy index_fill index_reduce scatter scatter_add scatter_reduce", write_at),
    "index_put": put,
    "cat": concatenate,
    "stack": concatenate,
    "embedding": look_up,
    "_embedding_bag": look_up,
    **_each(_OF_A_SHAPE, constants),
    **_each(_OVER_AXES, over_axes),
    **_each(_ALONG_AN_AXIS, along_axis),
    "glu": glu,
    **{name.format(axes): partial(positions, axes=axes) for axes in (1, 2, 3) for name in _OVER_POSITIONS.split()},
    **{name: partial(positions, axes=axes) for name, axes in _RESIZING.items()},
    **{f"{kind}_pad{axes}d": pad for kind in ("reflection", "replication") for axes in (1, 2, 3)},
    "constant_pad_nd": pad,
    **_each(_ATTENTION, attention),
    **dict.fromkeys(_MULTIPLYING, matmul),
    "convolution": convolution,
    **_each(_BATCH_NORMS, batch_norm),
    "native_layer_norm": layer_norm,
    "_fused_rms_norm": layer_norm,
    "native_group_norm": group_norm,
}
