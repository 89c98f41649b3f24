//! What was typed, as it was typed.

pub mod goflag;

pub mod flanneld;

pub mod flannelctl;
