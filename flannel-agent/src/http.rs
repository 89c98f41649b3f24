//! Health, readiness, metrics and the status page over HTTP.
