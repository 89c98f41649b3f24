//! The programs: one thin shell per hook.
#![no_std]
#![no_main]

mod maps;

use aya_ebpf::{
    bindings::{TC_ACT_UNSPEC, xdp_action::XDP_PASS},
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use flannel_common::{abi::Hook, reason::Reason};

macro_rules! tc_shell {
    ($($name:ident => $hook:ident),+ $(,)?) => {$(
        #[classifier]
        pub fn $name(ctx: TcContext) -> i32 {
            maps::count(Hook::$hook, Reason::Disabled, u64::from(ctx.len()));
            TC_ACT_UNSPEC
        }
    )+};
}

tc_shell! {
    from_port => FromPort,
    to_port => ToPort,
    from_uplink => FromUplink,
    to_uplink => ToUplink,
    trusted_from_port => FromPort,
    trusted_from_uplink => FromUplink,
}

#[xdp]
pub fn transit(ctx: XdpContext) -> u32 {
    maps::count(Hook::Transit, Reason::Disabled, (ctx.data_end() - ctx.data()) as u64);
    XDP_PASS
}

#[xdp]
pub fn trusted_transit(ctx: XdpContext) -> u32 {
    maps::count(Hook::Transit, Reason::Disabled, (ctx.data_end() - ctx.data()) as u64);
    XDP_PASS
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
