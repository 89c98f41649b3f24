//! Docker daemon options made from subnet.env (`mk-docker-opts`).
