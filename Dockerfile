# shimproxy as a container: `docker build -t shimproxy .`; docs/install.md tells how to run it.

FROM python:3.13-slim AS base


FROM base AS build
WORKDIR /build
COPY pyproject.toml README.md ./
COPY shimproxy shimproxy/
RUN pip wheel --no-cache-dir --no-deps --wheel-dir wheels . \
 && pip install --no-cache-dir --prefix /installed wheels/*.whl \
 && mkdir records


FROM base
LABEL org.opencontainers.image.title="shimproxy" \
      org.opencontainers.image.description="A live, transparent SMTP proxy that repairs protocol violations on the wire"
COPY --from=build /installed /usr/local
# Nothing can be compiled under a read-only root: what is loaded is now, of the standard library too. A health check
# takes a third of the CPU then. Afterwards there is nothing left to install with.
RUN ["python", "-c", "import shimproxy.daemon.worker; from shimproxy.cli.parser import COMMANDS, parser_of; parser_of(COMMANDS)"]
RUN ["pip", "uninstall", "--yes", "--root-user-action=ignore", "pip"]
# A new volume that is mounted here is its user's.
COPY --from=build --chown=65532:65532 /build/records /records
# What an engine kills after the 10 s of `docker stop` has FIN sent to a receiver in the midst of a mail, which may take
# it for the end. So the grace is shorter; who gives more time for stopping gives more grace, too.
ENV SHIMPROXY_LISTEN=:2525 \
    SHIMPROXY_ADMIN=127.0.0.1:8025 \
    SHIMPROXY_GRACE=8
EXPOSE 2525
USER 65532:65532
HEALTHCHECK --interval=15s --timeout=10s --start-period=10s CMD ["shimproxy", "health"]
ENTRYPOINT ["shimproxy"]
CMD ["run"]
