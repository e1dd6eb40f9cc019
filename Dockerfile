# syntax=docker/dockerfile:1
# Two images from one file:
#   docker build -t argmax-service .                        what serves; no training code, no compilers
#   docker build -t argmax-training --target training .     what trains, publishes and promotes
# CUDA comes with the torch wheels; the host needs the driver and the NVIDIA container toolkit alone.
ARG BASE=docker.io/library/python:3.11-slim-bookworm

# What both build on. Nothing of this stage but /opt/venv reaches an image.
FROM ${BASE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
RUN python3 -m venv /opt/venv
# The packages depend on these two files alone, so that a change of code or text does not install torch again.
COPY pyproject.toml constraints.txt ./
RUN --mount=type=cache,target=/root/.cache/pip \
    mkdir service training && touch README.md && /opt/venv/bin/pip install -c constraints.txt '.[s3,gpu,grpc]'

FROM build AS build-service
COPY README.md ./
COPY service service
RUN --mount=type=cache,target=/root/.cache/pip \
    rm -r training && /opt/venv/bin/pip install --no-deps --force-reinstall -c constraints.txt .

FROM build AS build-training
RUN --mount=type=cache,target=/root/.cache/pip /opt/venv/bin/pip install -c constraints.txt '.[training,s3]'
COPY README.md ./
COPY service service
COPY training training
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/venv/bin/pip install --no-deps --force-reinstall -c constraints.txt .

# What both run on: uid 10001, and a root file system that may be read-only.
FROM ${BASE} AS runtime
ARG REVISION=unknown
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="argmax" \
      org.opencontainers.image.description="Trains image classifiers, and serves them at the speed of the machine" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
RUN groupadd --gid 10001 argmax && useradd --uid 10001 --gid 10001 --home-dir /tmp --shell /usr/sbin/nologin argmax
# NVIDIA_*: what the container toolkit puts in; without a GPU they do nothing.
ENV PATH=/opt/venv/bin:$PATH \
    HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /app
# Both halves take SIGTERM as the first process; there is nothing for an init to do.
STOPSIGNAL SIGTERM

FROM runtime AS training
ARG REVISION=unknown
COPY --from=build-training /opt/venv /opt/venv
# An image has no git: the commit comes with it. A file system that is read-only needs writable places by name.
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

# The last stage is what `docker build .` makes.
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
