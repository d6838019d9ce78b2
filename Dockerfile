# Polyhead: docker build --tag polyhead:0.1.0 .
# With CUDA: docker build --build-arg VARIANT=cuda --tag polyhead:0.1.0-cuda .
#
# Nothing is fetched when it starts: the default backbone's weights come with a package, and its export is in
# the cache. For x86-64; the locks hold no other.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm
ARG VARIANT=cpu

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/polyhead
ENV PATH=/opt/polyhead/bin:$PATH
WORKDIR /src
COPY requirements.lock requirements-cuda.lock ./

# PyPI's torch for Linux is CUDA's. The CPU's has an index of its own, the same versions, and no hash in the lock.
FROM build AS torch-cpu
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN grep --only-matching --extended-regexp '^torch(vision)?==[0-9.]+' requirements-cuda.lock > torch.txt \
    && pip install --no-cache-dir --no-deps --index-url "${TORCH_INDEX}" --requirement torch.txt

FROM build AS torch-cuda
RUN pip install --no-cache-dir --no-deps --require-hashes --requirement requirements-cuda.lock

# It is one of the two stages above.
# hadolint ignore=DL3006
FROM torch-${VARIANT} AS install
WORKDIR /src
RUN pip install --no-cache-dir --no-deps --require-hashes --requirement requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY models models
COPY service service
RUN pip install --no-cache-dir --no-deps --no-build-isolation .
WORKDIR /
# What a first start would do for a minute.
ENV POLYHEAD_CACHE_DIR=/var/cache/polyhead
RUN ["python", "-c", "from models.prepare import prepare_backbone; from service.settings import Settings; settings = Settings(); prepare_backbone(settings.backbone_config, settings.cache_dir)"]

FROM ${PYTHON_IMAGE} AS polyhead
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Polyhead" \
      org.opencontainers.image.description="One frozen vision backbone, many task heads, over HTTP" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
RUN groupadd --gid 10001 polyhead \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin polyhead \
    && install --directory --owner=10001 --group=10001 --mode=0700 /var/lib/polyhead
COPY --from=install /opt/polyhead /opt/polyhead
COPY --from=install --chown=10001:10001 /var/cache/polyhead /var/cache/polyhead
# Libraries keep small caches in the home folder. NVIDIA's runtime reads the last one.
ENV PATH=/opt/polyhead/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    POLYHEAD_HOST=0.0.0.0 \
    POLYHEAD_DATA_DIR=/var/lib/polyhead \
    POLYHEAD_CACHE_DIR=/var/cache/polyhead \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /
USER 10001:10001
EXPOSE 8000
VOLUME /var/lib/polyhead
STOPSIGNAL SIGTERM
# Of `serve`; Kubernetes has its own probes and ignores it.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=6 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ.get('POLYHEAD_PORT', '8000') + '/livez', timeout=4)"]
ENTRYPOINT ["polyhead"]
CMD ["serve"]
