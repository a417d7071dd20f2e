# qsd in a small image: no shell, no package manager, not root.
#
#   docker build -t qsd .
#   docker run --rm -v "$PWD/images:/images" -v "$PWD/run:/run/qsd" qsd \
#     --blockdev driver=file,node-name=disk0,filename=/images/disk.raw \
#     --nbd-server addr.type=unix,addr.path=/run/qsd/nbd.sock \
#     --export type=nbd,id=export0,node-name=disk0,name=disk,writable=on
#
# Volumes:
#   /images    disk images; the user (65532) needs to read them, and to write those that are exported writable
#   /run/qsd   sockets (NBD, QMP) and the pid file
# For NBD over TCP publish the port that --nbd-server names (10809 by custom).

FROM denoland/deno:debian-2.9.6 AS build
WORKDIR /src
COPY . .
RUN deno task compile
# Decode compressed qcow2 clusters up to twice as fast as what is built in.
RUN apt-get update -qq && apt-get install -qq -y --no-install-recommends libdeflate0 libzstd1
# The runtime base of deno compile can be downloaded here; the other kind of dist/qsd would need a shell.
RUN head -c 4 dist/qsd | grep -q ELF || { echo "dist/qsd is no executable of the machine" >&2; exit 1; }
# The final image: the executable, the shared libraries it names or looks for, a user, and the volumes' mount points.
RUN mkdir -p /out/usr/bin /out/etc /out/images /out/run/qsd /out/tmp \
 && cp dist/qsd /out/usr/bin/qsd \
 && ldd dist/qsd | grep -o '/[^ ]*' | xargs -I{} cp -L --parents {} /out \
 && dpkg -L libdeflate0 libzstd1 | grep -E '/lib(deflate\.so\.0|zstd\.so\.1)$' | xargs -I{} cp -L --parents {} /out \
 && echo 'qsd:x:65532:65532::/images:/nonexistent' > /out/etc/passwd \
 && echo 'qsd:x:65532:' > /out/etc/group \
 && echo 'hosts: files dns' > /out/etc/nsswitch.conf \
 && chown -R 65532:65532 /out/images /out/run/qsd && chmod 1777 /out/tmp

FROM scratch
COPY --from=build /out /
USER 65532:65532
WORKDIR /images
VOLUME ["/images", "/run/qsd"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/bin/qsd"]
