# syntax=docker/dockerfile:1
FROM python:3.13-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /src
RUN python -m venv /opt/agentgate
# The lock first: a change of our code alone reuses this layer.
COPY requirements/runtime.lock requirements/runtime.lock
RUN /opt/agentgate/bin/pip install --require-hashes --only-binary :all: --requirement requirements/runtime.lock
COPY pyproject.toml README.md LICENSE ./
COPY src src
COPY policies policies
RUN /opt/agentgate/bin/pip install --no-index --no-build-isolation --no-deps .
# What only the build needed does not go into the image.
RUN /opt/agentgate/bin/pip uninstall --yes hatchling editables trove-classifiers pathspec pluggy tomlkit pip

FROM python:3.13-slim
LABEL org.opencontainers.image.title="AgentGate" org.opencontainers.image.licenses="Apache-2.0"
# /data is made here, owned by the user: a fresh named volume takes both over.
RUN groupadd --gid 10001 agentgate \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin agentgate \
    && install --directory --mode 0700 --owner 10001 --group 10001 /data
COPY --from=build /opt/agentgate /opt/agentgate
ENV PATH=/opt/agentgate/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=15s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/readyz', timeout=2)"]
# Without keys it refuses to listen here, and says so: mount a configuration and name it in AGENTGATE_CONFIG.
ENTRYPOINT ["agentgate"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8000", "--data-dir", "/data"]
