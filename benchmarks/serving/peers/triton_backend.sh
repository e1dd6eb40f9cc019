#!/bin/bash
# Build Triton's LibTorch backend for the tritonserver in PyTriton's wheel (2.51.0, that is 24.10), which lacks it.
#
#     SOURCES=FOLDER benchmarks/serving/peers/triton_backend.sh        from the root, after `make bench-peers`
#
# SOURCES holds core, common, backend and pytorch_backend of github.com/triton-inference-server, each at branch r24.10:
#     git clone --depth 1 --branch r24.10 https://github.com/triton-inference-server/core SOURCES/core
# Torch's headers come from .venv. Needs g++ and rapidjson (Debian: rapidjson-dev); takes minutes of a core.
# The library is put into .peers/triton_backend, or another folder for environments in PEERS.
set -euo pipefail
: "${SOURCES:?core, common, backend and pytorch_backend at r24.10}"
out="$(realpath -m "${PEERS:-.peers}")/triton_backend"
mkdir -p "$out/objects"
paths='import sysconfig, torch; print(torch.__path__[0], sysconfig.get_path("include"))'
read -r torch python < <(.venv/bin/python -c "$paths")
cd "$SOURCES"
files=(backend/src/backend_{common,input_collector,memory,model,model_instance,output_responder}.cc
       common/src/{error,async_work_queue,thread_pool}.cc pytorch_backend/src/{libtorch,libtorch_utils}.cc)
includes=(-Icore/include -Ibackend/include -Icommon/include -Ipytorch_backend/src
          -I"$torch/include" -I"$torch/include/torch/csrc/api/include" -I"$python")
objects=()
for file in "${files[@]}"; do
  object="$out/objects/$(basename "$file" .cc).o"
  objects+=("$object")
  [ "$object" -nt "$file" ] && continue
  g++ -O2 -fPIC -std=c++20 -w -DTRITON_ENABLE_STATS=1 -DTRITON_MIN_COMPUTE_CAPABILITY=6.0 "${includes[@]}" \
    -c "$file" -o "$object"
done
g++ -shared -o "$out/libtriton_pytorch.so" "${objects[@]}" -L"$torch/lib" -Wl,--no-as-needed -ltorch -ltorch_cpu -lc10 \
  -Wl,-rpath,"$torch/lib" -lpthread
