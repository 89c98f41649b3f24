//! The local admin socket that `flannelctl` asks.
