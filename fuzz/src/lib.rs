//! What reads bytes that others wrote, as functions of any bytes: each must end, must not panic, and must keep the
//! promises that it asserts. `targets` has the functions, `mutate` the bytes for the driver on stable.

pub mod mutate;
pub mod targets;
