"""tritonserver from PyTriton's wheel, with dynamic batching: `triton_server.py pytorch|python QUEUE_DELAY_US`.

pytorch: its LibTorch backend, which triton_backend.sh builds, with the artifact as it is: pixels in, logits out.
python: its Python backend with triton_python_model.py: PNGs in, classes out.
PORT, MODEL, MODEL_NAME, BENCH_DIR and PEERS are set.
"""

import os
import shutil
import sys
import sysconfig
from pathlib import Path

import pytriton

LIBTORCH = """
input [ { name: "images", data_type: TYPE_UINT8, dims: [1, 28, 28] } ]
output [ { name: "logits__0", data_type: TYPE_FP32, dims: [10] } ]
parameters: { key: "INFERENCE_MODE" value: { string_value: "true" } }
parameters: { key: "INTRA_OP_THREAD_COUNT" value: { string_value: "1" } }
parameters: { key: "INTER_OP_THREAD_COUNT" value: { string_value: "1" } }
"""
PYTHON = """
input [ { name: "png", data_type: TYPE_STRING, dims: [1] } ]
output [
  { name: "class_id", data_type: TYPE_INT64, dims: [1] },
  { name: "probability", data_type: TYPE_FP32, dims: [1] }
]
"""

kind, queue_delay_micros = sys.argv[1:3]
folder = Path(os.environ["BENCH_DIR"])
name = os.environ["MODEL_NAME"]
wheel = Path(pytriton.__file__).parent / "tritonserver"
version = folder / "models" / name / "1"
version.mkdir(parents=True)
backends = folder / "backends"

if kind == "pytorch":
    shutil.copy(os.environ["MODEL"], version / "model.pt")
    (backends / "pytorch").mkdir(parents=True)
    library = Path(os.environ["PEERS"]) / "triton_backend" / "libtriton_pytorch.so"
    (backends / "pytorch" / library.name).symlink_to(library)
else:
    shutil.copy(Path(__file__).with_name("triton_python_model.py"), version / "model.py")
    shutil.copytree(wheel / "backends" / "python", backends / "python")
    stubs = wheel / "python_backend_stubs" / sysconfig.get_python_version()
    shutil.copy(stubs / "triton_python_backend_stub", backends / "python")

(version.parent / "config.pbtxt").write_text(
    f"""name: "{name}"
backend: "{kind}"
max_batch_size: 64
instance_group [ {{ kind: KIND_CPU, count: 1 }} ]
dynamic_batching {{ max_queue_delay_microseconds: {queue_delay_micros} }}
{LIBTORCH if kind == "pytorch" else PYTHON}"""
)
# The Python backend's stub must find this interpreter's own libpython: the system's may be of another patch version.
libraries = [str(wheel.parents[1] / "nvidia_pytriton.libs"), sysconfig.get_config_var("LIBDIR")]
os.environ["LD_LIBRARY_PATH"] = ":".join(libraries)
os.environ["PYTHONPATH"] = ":".join(path for path in sys.path if path.endswith("site-packages"))
options = ["--model-repository", folder / "models", "--backend-directory", backends, "--http-address", "127.0.0.1"]
options += ["--http-port", os.environ["PORT"], "--http-thread-count", "8", "--log-info", "false"]
options += ["--allow-grpc", "false", "--allow-metrics", "false"]
server = str(wheel / "bin" / "tritonserver")
os.execv(server, [server, *map(str, options)])
