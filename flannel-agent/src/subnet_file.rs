//! subnet.env: what Docker and scripts read, and where a restart finds its previous subnet.
