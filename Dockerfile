# Two images of one recipe:
#   docker build --target cpu  --tag fdiv-jax .
#   docker build --target cuda --tag fdiv-jax:cuda .        (run it with --gpus all)
# Then: docker run --rm -v "$PWD/runs:/work/runs" fdiv-jax unlearn fashion --target sneaker --anchor near --output runs/sneaker

FROM python:3.11-slim AS build
WORKDIR /src
COPY pyproject.toml setup.py constraints.txt README.md LICENSE ./
COPY fdiv_jax ./fdiv_jax
COPY analysis ./analysis
RUN python -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.11-slim AS cpu
# An account of its own: what it writes into a mounted folder belongs to the user 1000.
RUN useradd --create-home --uid 1000 user
WORKDIR /work
COPY --from=build /src/constraints.txt /tmp/constraints.txt
COPY --from=build /wheels /wheels
RUN python -m pip install --no-cache-dir --constraint /tmp/constraints.txt /wheels/*.whl \
    && rm -rf /wheels /tmp/constraints.txt \
    && chown user /work
USER 1000
ENV JAX_PLATFORMS=cpu
ENTRYPOINT ["fdiv-jax"]
CMD ["--help"]

FROM python:3.11-slim AS cuda
RUN useradd --create-home --uid 1000 user
WORKDIR /work
COPY --from=build /src/constraints.txt /tmp/constraints.txt
COPY --from=build /wheels /wheels
# The extra brings CUDA's libraries as wheels; only the driver is the host's.
RUN set -- /wheels/*.whl \
    && python -m pip install --no-cache-dir --constraint /tmp/constraints.txt "$1[cuda12]" \
    && rm -rf /wheels /tmp/constraints.txt \
    && chown user /work
USER 1000
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
ENTRYPOINT ["fdiv-jax"]
CMD ["--help"]
