"""The operators that an artifact may use: arithmetic on tensors and numbers, and nothing that reaches beyond them.

TorchScript has operators that open files (`aten::from_file`), and archives may hold code that runs while they are read.
Whoever can write the registry could read and write with them what the service's user can; the digest does not help,
because it lies beside the artifact. Knows nothing about registries or what a network computes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import Any

import torch


class ForbiddenOperatorError(RuntimeError):  # as all errors of loading a module are
    """An artifact that would do something else than compute with tensors."""


_PRIM = """
    Constant ConstantChunk CreateObject GetAttr If ListConstruct ListUnpack Loop NumToTensor RaiseException
    TupleConstruct TupleIndex TupleSlice TupleUnpack Uninitialized abs device dtype is_cuda isinstance itemsize layout
    max min requires_grad shape type unchecked_cast unchecked_unwrap_optional
"""

_ATEN = """
    Bool Float FloatImplicit Int IntImplicit ScalarImplicit __and__ __contains__ __derive_index __getitem__ __is__
    __isnot__ __lshift__ __not__ __or__ __range_length __round_to_zero_floordiv __rshift__ __xor__ _set_item append
    ceil clear copy extend floor floordiv format insert is_floating_point item len list lower neg pop remainder
    reverse round sorted str trunc upper warn

    abs abs_ absolute acos add add_ addcdiv addcmul addmm all alpha_dropout amax amin aminmax angle any arange
    argmax argmin argsort as_tensor asin atan atan2 baddbmm bitwise_and bitwise_not bitwise_or bitwise_xor bmm
    broadcast_tensors broadcast_to bucketize cat cdist chunk clamp clamp_ clamp_max clamp_max_ clamp_min clamp_min_
    clip clone concat contiguous copy_ cos cosh cosine_similarity count_nonzero cumprod cumsum detach diag diagonal
    diff dim div div_ dot dropout dropout_ einsum empty empty_like eq erf erfc exp exp_ expand expand_as expm1 eye
    feature_dropout fill_ flatten flip fmod frac frobenius_norm full full_like gather ge gt histc hypot index
    index_add index_fill index_put index_put_ index_select inner inverse is_contiguous is_nonzero isfinite isinf
    isnan kthvalue le lerp linalg_matrix_norm linalg_norm linalg_vector_norm linspace log log10 log1p log2
    log_softmax logical_and logical_not logical_or logical_xor logsumexp lt masked_fill masked_fill_ masked_scatter
    masked_select matmul max mean median meshgrid min minimum maximum mm mode movedim moveaxis mul mul_ mv
    nan_to_num nanmean nansum narrow ne new_empty new_full new_ones new_zeros nonzero norm numel one_hot ones
    ones_like outer permute pow prod quantile reciprocal relu relu_ repeat repeat_interleave reshape reshape_as
    resolve_conj roll rot90 round_ rsqrt rsub scatter scatter_ scatter_add scatter_reduce searchsorted select sgn
    sigmoid sigmoid_ sign sin sinh size slice softmax sort split split_with_sizes sqrt sqrt_ square squeeze squeeze_
    stack std std_mean stride sub sub_ subtract sum t take take_along_dim tan tanh tanh_ tensor tensor_split
    tensordot tile to topk trace transpose tril triu true_divide type_as unbind unflatten unfold unique_consecutive
    unsqueeze unsqueeze_ values var var_mean view view_as hstack vstack where xlogy zero_ zeros zeros_like

    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_max_pool1d adaptive_max_pool2d avg_pool1d avg_pool2d batch_norm
    bilinear celu channel_shuffle col2im constant_pad_nd conv1d conv2d conv3d conv_transpose1d conv_transpose2d
    convolution elu elu_ embedding gelu gelu_ glu grid_sampler group_norm hardshrink hardsigmoid hardsigmoid_
    hardswish hardswish_ hardtanh hardtanh_ im2col instance_norm layer_norm leaky_relu leaky_relu_ linear
    log_sigmoid logit max_pool1d max_pool2d mish mish_ native_batch_norm native_group_norm native_layer_norm pad
    pixel_shuffle pixel_unshuffle prelu reflection_pad1d reflection_pad2d relu6 relu6_ replication_pad1d
    replication_pad2d rms_norm scaled_dot_product_attention selu selu_ silu silu_ softplus softshrink threshold
    threshold_ upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_nearest1d upsample_nearest2d
    __interpolate __upsample _upsample_bilinear2d_aa _upsample_bicubic2d_aa
"""

ALLOWED = frozenset([f"prim::{name}" for name in _PRIM.split()] + [f"aten::{name}" for name in _ATEN.split()])
"""What the graph of an artifact may consist of."""

_RUNS_WHILE_READ = re.compile(rb"__setstate__|torch[.\n]classes")
"""Methods that restore an object, and objects of C++ that have one: reading the archive would call them."""


def check_archive(data: bytes) -> None:
    """Refuse an archive of which reading alone would run code.

    Raises:
        ForbiddenOperatorError: it names what would be run.
        RuntimeError: it is no archive.
    """
    archive: Any = torch._C.PyTorchFileReader(io.BytesIO(data))  # the parser that `torch.jit.load` uses
    for name in archive.get_all_records():
        if name.endswith((".py", ".pkl")) and (found := _RUNS_WHILE_READ.search(archive.get_record(name))):
            given = found[0].decode().replace("\n", ".")
            raise ForbiddenOperatorError(f"an artifact must hold no code that runs when it is read. Given: {given}")


def check_graph(module: torch.jit.ScriptModule) -> None:
    """Refuse a module that has other operators than `ALLOWED` ones, before anything of it is run.

    Raises:
        ForbiddenOperatorError: it names them.
    """
    forbidden = sorted(set(_kinds(module.inlined_graph)) - ALLOWED)
    if forbidden:
        more = f" and {len(forbidden) - 3} more" if len(forbidden) > 3 else ""
        raise ForbiddenOperatorError(
            f"an artifact must use only operators on tensors. Given: {', '.join(forbidden[:3])}{more}"
        )


def _kinds(block: Any) -> Iterator[str]:
    """Yield the operator of every node of a graph or block, and of the blocks inside."""
    for node in block.nodes():
        yield node.kind()
        for inner in node.blocks():
            yield from _kinds(inner)
