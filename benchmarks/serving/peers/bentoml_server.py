"""BentoML with its adaptive batching, as its documentation has it. PORT and MODEL are set."""

import os
import sys
from pathlib import Path

here = Path(__file__).parent
arguments = ["serve", "bentoml_service:Classifier", "--host", "127.0.0.1", "--port", os.environ["PORT"]]
os.environ |= {"BENTOML_DO_NOT_TRACK": "True", "BENTOML_HOME": os.environ["BENCH_DIR"]}
os.execv(sys.executable, [sys.executable, "-m", "bentoml", *arguments, "--working-dir", str(here)])
