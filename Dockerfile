# syntax=docker/dockerfile:1
# Three images from one file:
#   docker build -t argmax-service .                        serves; has no training code and no compilers
#   docker build -t argmax-training --target training .     trains, publishes and promotes
#   docker build -t argmax-bulk --target bulk .             scores collections, alone or in a Ray cluster
# `make image` builds them and passes VERSION (from pyproject.toml) and REVISION (the commit) for the labels.
# CUDA comes with the torch wheels; the host needs only the driver and the NVIDIA container toolkit.
ARG BASE=docker.io/library/python:3.11-slim-bookworm

# The common start of all builds. Only /opt/venv is copied out of it.
FROM ${BASE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
RUN python3 -m venv /opt/venv
# Only these two files decide which packages are installed, so a change of code or text does not install torch again.
COPY pyproject.toml constraints.txt ./
RUN --mount=type=cache,target=/root/.cache/pip \
    mkdir service training && touch README.md LICENSE && /opt/venv/bin/pip install -c constraints.txt '.[s3,gpu,grpc,otel]'

# setup.py compiles the path of a request; the compiler stays in this stage. The wheel is built once, for two images.
FROM build AS build-service
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
COPY README.md LICENSE setup.py ./
COPY service service
RUN --mount=type=cache,target=/root/.cache/pip \
    rm -r training && ARGMAX_COMPILE=1 /opt/venv/bin/pip wheel --no-deps --wheel-dir /wheels . && \
    /opt/venv/bin/pip install --no-deps --force-reinstall /wheels/*.whl && \
    rm /opt/venv/bin/argmax-training

# ray[default] is what KubeRay's jobs are submitted through; its own dependencies are not in constraints.txt.
FROM build-service AS build-bulk
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/venv/bin/pip install -c constraints.txt "$(echo /wheels/*.whl)[s3,gpu,ray]" 'ray[default]' && \
    rm -f /opt/venv/bin/argmax-training

FROM build AS build-training
RUN --mount=type=cache,target=/root/.cache/pip /opt/venv/bin/pip install -c constraints.txt '.[training,s3]'
COPY README.md LICENSE ./
COPY service service
COPY training training
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/venv/bin/pip install --no-deps --force-reinstall -c constraints.txt .

# The common base of all images: uid 10001, and a root file system that may be read-only.
FROM ${BASE} AS runtime
ARG REVISION=unknown
ARG VERSION=unknown
LABEL org.opencontainers.image.title="argmax" \
      org.opencontainers.image.description="Trains image classifiers, and serves them at the speed of the machine" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
RUN groupadd --gid 10001 argmax && useradd --uid 10001 --gid 10001 --home-dir /tmp --shell /usr/sbin/nologin argmax
# NVIDIA_DRIVER_CAPABILITIES says which driver libraries the container toolkit mounts; without a GPU it does nothing.
# NVIDIA_VISIBLE_DEVICES stays unset on purpose: on a node whose default runtime is nvidia, "all" would show every GPU
# to a pod that requested none. Docker's --gpus and Kubernetes' device plugin set it to what was asked for.
ENV PATH=/opt/venv/bin:$PATH \
    HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /app
# Both halves handle SIGTERM as the first process and need no init.
STOPSIGNAL SIGTERM

FROM runtime AS training
ARG REVISION=unknown
COPY --from=build-training /opt/venv /opt/venv
# The image has no git, so the commit is passed in. With a read-only root every writable place must be named.
ENV TRAINING_COMMIT=${REVISION} \
    TRAINING_DATA_DIR=/data/sets \
    TRAINING_RUNS_DIR=/data/runs \
    TRAINING_REGISTRY=/data/models \
    MPLCONFIGDIR=/tmp/matplotlib
RUN install -d -o 10001 -g 10001 /data
VOLUME /data
USER 10001:10001
ENTRYPOINT ["python", "-m", "training"]
CMD ["--help"]

FROM runtime AS bulk
COPY --from=build-bulk /opt/venv /opt/venv
COPY models models
ENV SERVICE_REGISTRY=/app/models \
    RAY_USAGE_STATS_ENABLED=0
USER 10001:10001
ENTRYPOINT ["python", "-m", "service"]
CMD ["score", "--help"]

# `docker build .` builds the last stage.
FROM runtime AS service
COPY --from=build-service /opt/venv /opt/venv
COPY models models
ENV SERVICE_HOST=0.0.0.0 \
    SERVICE_PORT=8000 \
    SERVICE_REGISTRY=/app/models
EXPOSE 8000
USER 10001:10001
HEALTHCHECK --interval=10s --timeout=6s --start-period=120s --retries=3 CMD ["python", "-m", "service", "health"]
ENTRYPOINT ["python", "-m", "service"]
