#!/bin/sh
# Writes options for dockerd, made from flannel's subnet file; `mk-docker-opts.sh -h` tells how.
exec "${FLANNELD:-/usr/bin/flanneld}" mk-docker-opts "$@"
