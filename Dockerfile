# The root file system of the plugin, for those who want it from docker build:
#
#   go build -trimpath -buildvcs=false -ldflags '-s -w' -o strata .      (with CGO_ENABLED=0)
#   docker build -t strata-rootfs .
#   docker create --name strata-rootfs strata-rootfs
#   mkdir -p build/plugin/rootfs && docker export strata-rootfs | tar -x -C build/plugin/rootfs
#   cp config.json build/plugin/ && docker plugin create strata build/plugin
#
# scripts/build makes the same tree without a Docker engine, and byte for byte the same each time.
# The binary is static and brings everything it needs: no base image, no package, no shell.
FROM scratch
# Static files that go into the plugin as they are.
COPY rootfs/ /
COPY LICENSE /usr/share/doc/strata/LICENSE
COPY strata /strata
# Mount points of config.json.
WORKDIR /hostdata
WORKDIR /propagated
WORKDIR /host
WORKDIR /run/docker/plugins
WORKDIR /
ENTRYPOINT ["/strata"]
CMD ["serve", "--graphdriver-socket", "/run/docker/plugins/strata.sock"]
