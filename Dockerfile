# toxfusion in a container, for a CPU or for NVIDIA GPUs:
#   docker build -t toxfusion .
#   docker build -t toxfusion:cuda --build-arg COMPUTE=cu126 .
#   docker run --rm -v "$PWD/studies:/studies" toxfusion doctor study=/studies/mine
FROM python:3.12-slim

# cpu, or a CUDA build of torch as uv names it (cu126, cu128 ...).
ARG COMPUTE=cpu

RUN useradd --create-home toxfusion \
    && pip install --no-cache-dir "uv>=0.8,<1"

WORKDIR /opt/toxfusion
COPY requirements.lock ./
RUN uv pip install --system --no-cache --torch-backend="${COMPUTE}" -r requirements.lock

COPY pyproject.toml README.md LICENSE ./
COPY conf ./conf
COPY toxfusion ./toxfusion
RUN uv pip install --system --no-cache --no-deps .

USER toxfusion
WORKDIR /home/toxfusion
ENTRYPOINT ["toxfusion"]
CMD ["--help"]
