//! Hosts in network namespaces, real etcd and real packets, for the tests, the demo and the benchmark.
