//! What was typed, as it was typed.
