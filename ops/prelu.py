# SPDX-License-Identifier: Apache-2.0
"""PRELU: x where positive, alpha * x elsewhere, alpha a tensor.

Source:
    TFLite ``reference_ops::BroadcastPrelu4DSlow``; activations.cc ``PreluPrepare``: the
    multipliers are formed in float32.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from akida_backend.arithmetic import requantize, runs_in_codes, stored, through_reals
from akida_backend.graph import Activation, AnyArray, Arithmetic, Prelu
from akida_backend.reference import Environment
from akida_backend.spec import OpSpec
from akida_backend.weighted import centred_weights


def reference(op: Prelu, env: Environment) -> tuple[AnyArray, ...]:
    x, alpha, y = (env.tensor(name) for name in (op.input, op.alpha, op.output))
    if not runs_in_codes(op, x, alpha, y) or env.arithmetic is Arithmetic.ONNX:

        def prelu(values: AnyArray, slopes: AnyArray) -> AnyArray:
            return np.where(np.greater(values, 0), values, np.multiply(values, slopes))

        return (through_reals(env, (op.input, op.alpha), y, prelu),)
    assert x.quantization is not None
    assert alpha.quantization is not None
    assert y.quantization is not None
    scale_in, scale_out = x.quantization.scale, y.quantization.scale
    centred = centred_weights(env.value(op.input), x)
    product = centred * centred_weights(env.value(op.alpha), alpha)
    same = requantize(centred, (scale_in / scale_out).astype(np.float64), env.arithmetic)
    factor = (scale_in * alpha.quantization.scale / scale_out).astype(np.float64)
    sloped = requantize(product, factor, env.arithmetic)
    return (stored(np.where(centred >= 0, same, sloped), y, Activation.NONE),)


SPEC: Final = OpSpec(op_type=Prelu, reference=reference)
