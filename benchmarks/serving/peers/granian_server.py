"""Hand-made services with ONNX Runtime on granian's RSGI or bare uvicorn: `granian_server.py MODULE PROCESSES`.

The network is exported from the TorchScript once and kept in this environment. PORT and MODEL are set.
"""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

module, processes = sys.argv[1:3]
here = Path(__file__).parent
port = os.environ["PORT"]

digest = hashlib.sha256(Path(os.environ["MODEL"]).read_bytes()).hexdigest()
onnx = Path(sys.prefix) / f"{digest[:16]}.onnx"
if not onnx.exists():
    draft = onnx.with_suffix(f".{os.getpid()}")
    subprocess.run([sys.executable, here / "export_onnx.py", os.environ["MODEL"], draft], check=True)
    draft.rename(onnx)
os.environ |= {"ONNX": str(onnx), "PYTHONPATH": str(here)}

address = ["--host", "127.0.0.1", "--port", port, "--workers", processes, "--loop", "uvloop", "--log-level", "warning"]
if module.startswith("granian"):
    options = ["--interface", "rsgi", "--http", "1", "--no-ws", "--runtime-threads", "1", "--runtime-mode", "st"]
    options += ["--backlog", "1024", "--backpressure", "1024"]
else:
    options = ["--http", "httptools", "--lifespan", "off", "--no-access-log"]
server = module.partition("_")[0]
os.execv(sys.executable, [sys.executable, "-m", server, *address, *options, f"{module}:app"])
