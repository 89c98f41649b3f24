//! Flags and the cluster configuration, turned once into types that cannot be wrong.
