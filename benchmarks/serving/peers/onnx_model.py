"""A PNG to the most probable class, by Rust's png crate and ONNX Runtime, one image at a time.

ONNX names the network; ONNX Runtime has one thread, and its input and outputs stay bound to the same memory.
"""

import os

import numpy as np
import onnxruntime
import orjson
from kornia_rs.io import decode_image_png_u8

_options = onnxruntime.SessionOptions()
_options.intra_op_num_threads = _options.inter_op_num_threads = 1
_options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
_session = onnxruntime.InferenceSession(os.environ["ONNX"], _options, providers=["CPUExecutionProvider"])

_image = np.zeros((1, 1, 28, 28), np.uint8)
_class_id = np.zeros(1, np.int64)
_probability = np.zeros(1, np.float32)
_binding = _session.io_binding()
_binding.bind_input("image", "cpu", 0, np.uint8, _image.shape, _image.ctypes.data)
_binding.bind_output("class_id", "cpu", 0, np.int64, _class_id.shape, _class_id.ctypes.data)
_binding.bind_output("probability", "cpu", 0, np.float32, _probability.shape, _probability.ctypes.data)


def classify(png: bytes) -> bytes:
    """Return the answer, in JSON.

    Raises:
        Exception: it is no PNG of 28 x 28 grey pixels; the decoder has no class of error of its own.
    """
    _image[0, 0] = decode_image_png_u8(png, (28, 28), "mono")[:, :, 0]
    _session.run_with_iobinding(_binding)
    return orjson.dumps({"class_id": _class_id.item(), "probability": _probability.item()})
