# syntax=docker/dockerfile:1
# The server, the sample worker and the one-shot commands in one image; `docker compose up --build` runs them together.
# scripts/check-docker.sh replays the build stage without a container engine: keep its RUN lines free of absolute paths.

FROM rust:1.95-slim-bookworm AS build
# The toolchain of the image, without the components that rust-toolchain.toml asks for to check the code.
ENV RUSTUP_TOOLCHAIN=1.95.0
# librdkafka is compiled from the source in its crate: C compiler, make, and zlib for gzip.
RUN apt-get update \
 && apt-get install -y --no-install-recommends build-essential pkg-config zlib1g-dev \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# Registry and target directory are caches of the builder: after a change of the code only this crate is compiled again,
# and after a change of Cargo.lock only what it changed. The binary is copied out, because a cache is in no layer.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --bin thousandx \
 && install -D target/release/thousandx out/thousandx

FROM debian:bookworm-slim
LABEL org.opencontainers.image.title="thousandx" \
      org.opencontainers.image.description="A synchronous HTTP front door to Kafka" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0"
COPY --from=build /src/out/thousandx /usr/local/bin/thousandx
# In a container the network is the container's own: listen on all of it.
ENV HOST=0.0.0.0 \
    PORT=8000
EXPOSE 8000
# No name, so that the platform can check without /etc/passwd that it is not root.
USER 65532:65532
# SIGTERM starts the drain; it is Docker's default, named because the drain depends on it.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s --retries=3 CMD ["thousandx", "probe"]
ENTRYPOINT ["thousandx"]
CMD ["serve"]
