//! Where leases live: etcd.
