"""TorchServe as its documentation has it: an archive of the TorchScript with a handler, one worker, batches of 64.

PORT, MODEL and BENCH_DIR are set. Needs Java 17.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

folder = Path(os.environ["BENCH_DIR"])
port = int(os.environ["PORT"])
bin_folder = Path(sys.executable).parent

archive = {"--model-name": "model", "--version": "1.0", "--serialized-file": os.environ["MODEL"]}
archive |= {"--handler": str(Path(__file__).with_name("torchserve_handler.py")), "--export-path": str(folder)}
subprocess.run([bin_folder / "torch-model-archiver", *(part for pair in archive.items() for part in pair)], check=True)

model = {"defaultVersion": True, "marName": "model.mar", "minWorkers": 1, "maxWorkers": 1}
model |= {"batchSize": 64, "maxBatchDelay": 1, "responseTimeout": 120}
properties = {
    "inference_address": f"http://127.0.0.1:{port}",
    "management_address": f"http://127.0.0.1:{port + 100}",
    "metrics_address": f"http://127.0.0.1:{port + 200}",
    "grpc_inference_port": port + 300,
    "grpc_management_port": port + 400,
    "job_queue_size": 1000,
    "disable_token_authorization": "true",
    "model_store": folder,
    "load_models": "model.mar",
    "models": json.dumps({"model": {"1.0": model}}),
}
config = folder / "config.properties"
config.write_text("".join(f"{name}={value}\n" for name, value in properties.items()))
quiet = folder / "log4j2.xml"
quiet.write_text('<Configuration><Loggers><Root level="error"/></Loggers></Configuration>')
os.environ |= {"PATH": f"{bin_folder}:{os.environ['PATH']}", "LOG_LOCATION": str(folder)}
command = ["torchserve", "--start", "--foreground", "--ncs", "--disable-token-auth"]
os.chdir(folder)
os.execvp("torchserve", [*command, "--ts-config", str(config), "--log-config", str(quiet)])
