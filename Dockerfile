# The benchmark as an image. `make image` builds it (scripts/images.sh); by hand:
#
#   docker build -t bench --build-arg IMAGE_REVISION=$(git rev-parse HEAD) .
#   docker run --rm -v "$PWD:/results" -u "$(id -u):$(id -g)" bench +allocator=tcmalloc
#
# Layers go from what never changes to what always does: editing the code rebuilds the last few, in seconds. There is no
# LD_PRELOAD and no thread count in ENV: either would reach the baseline arm too, and Apptainer lets an image's values
# win over the caller's.
ARG BASE_IMAGE=python:3.9-slim-bookworm
FROM ${BASE_IMAGE} AS arms
# What the arms need, in a stage of its own: an arm file that is edited, and needs the same, leaves the next layers alone.
COPY scripts/packages.sh /packages.sh
COPY conf/allocator /allocator
RUN ["/bin/sh", "-c", "sh /packages.sh wanted /allocator >/wanted.txt"]

FROM ${BASE_IMAGE} AS programs
# Our programs in C; their compiler stays in this stage.
COPY scripts/install.sh /opt/bench/scripts/
COPY bench /opt/bench/bench
RUN ["/bin/sh", "/opt/bench/scripts/install.sh", "programs", "/opt/bench/programs"]

FROM ${BASE_IMAGE}

COPY --from=arms /wanted.txt /opt/bench/wanted.txt
COPY scripts/install.sh scripts/packages.sh scripts/clear_execstack.py /opt/bench/scripts/
RUN ["/bin/sh", "/opt/bench/scripts/install.sh", "system"]

# pypi: the wheel of the package index, as native. cpu: PyTorch's CPU-only build, another binary; TORCH_WHEEL names it.
ARG TORCH_FLAVOR=pypi
ARG TORCH_WHEEL
# A mirror of the package index, if the builder's environment names one.
ARG PIP_INDEX_URL
COPY requirements.lock requirements-mimalloc.lock /opt/bench/
RUN ["/bin/sh", "/opt/bench/scripts/install.sh", "environment"]

# 1: a second Python and the newest PyTorch too. TORCH2_WHEEL names a wheel of its CPU-only build, a sixth of the size.
ARG TORCH2
ARG TORCH2_WHEEL
COPY requirements-torch2.lock /opt/bench/
RUN ["/bin/sh", "/opt/bench/scripts/install.sh", "torch2"]

COPY scripts/sbom.py /opt/bench/scripts/sbom.py
COPY entrypoint.sh /opt/bench/entrypoint.sh
COPY conf /opt/bench/conf
COPY bench /opt/bench/bench
COPY --from=programs /opt/bench/programs /opt/bench/.venv/programs
ARG BASE_IMAGE
ARG IMAGE_BASE=${BASE_IMAGE}
ARG IMAGE_REVISION=unknown
ARG IMAGE_VERSION=unknown
RUN ["/usr/bin/env", "IMAGE_BUILDER=docker", "/bin/sh", "/opt/bench/scripts/install.sh", "project"]

# What is installed, as CycloneDX; images.sh adds its SHA-256 to the labels.
RUN ["/opt/bench/.venv/bin/python", "-I", "-B", "/opt/bench/scripts/sbom.py", "/opt/bench/sbom.json"]

ARG IMAGE_SOURCE=unknown
LABEL org.opencontainers.image.title="mallocost" \
      org.opencontainers.image.description="What a memory allocator costs CPU training" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.source="${IMAGE_SOURCE}" \
      org.opencontainers.image.base.name="${IMAGE_BASE}" \
      org.opencontainers.image.revision="${IMAGE_REVISION}" \
      org.opencontainers.image.version="${IMAGE_VERSION}" \
      bench.torch-flavor="${TORCH_FLAVOR}"

USER 1000:1000
# Mount a folder here: results go into it, and relative paths on the command line mean files in it.
WORKDIR /results
# The static shell: a host's LD_PRELOAD cannot enter it, and the script drops that variable before it starts anything.
ENTRYPOINT ["/bin/busybox", "sh", "/opt/bench/entrypoint.sh"]
