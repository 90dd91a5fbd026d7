# phi-vision in a container: a server by default, and every other command.
#
#   docker build -t phi-vision .
#   docker build -t phi-vision:gpu . \
#     --build-arg BASE=nvidia/cuda:13.0.2-base-ubuntu24.04
#
# pip's own index has PyTorch for CUDA, whose libraries come with it, so that the smallest CUDA image
# is enough. On a CPU, --build-arg TORCH_INDEX=… of pytorch.org's CPU builds saves gigabytes.
ARG BASE=python:3.12-slim

FROM ${BASE} AS python
# Images of CUDA have no Python; those of Python have it outside of apt. Each has its version.
# hadolint ignore=DL3008
RUN command -v python3 >/dev/null || { \
        apt-get update \
        && apt-get install -y --no-install-recommends python3 python3-venv \
        && rm -rf /var/lib/apt/lists/*; \
    }

FROM python AS install
ARG TORCH=2.13.0
ARG TORCH_INDEX=
ARG EXTRAS=serve
ENV PATH=/opt/phi-vision/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python3 -m venv /opt/phi-vision
# First and exact, in a layer of its own: it is large, and changes least.
# hadolint ignore=DL3059
RUN if [ -n "${TORCH_INDEX}" ]; then export PIP_INDEX_URL="${TORCH_INDEX}"; fi \
    && pip install "torch==${TORCH}"
WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY phi_vision phi_vision
RUN pip install -c constraints.txt ".[${EXTRAS}]"

FROM python
# The home is writable for any user, as `docker run --user` names one that the image does not know.
RUN useradd --create-home --uid 10001 phi && chmod 1777 /home/phi
COPY --from=install /opt/phi-vision /opt/phi-vision
ENV PATH=/opt/phi-vision/bin:$PATH HOME=/home/phi USER=phi PYTHONUNBUFFERED=1
USER 10001
WORKDIR /home/phi
EXPOSE 8000
# Of the server; other commands want `docker run --no-healthcheck`.
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["phi-vision"]
CMD ["serve", "/model", "--host", "0.0.0.0"]
