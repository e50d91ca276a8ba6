//! Entry points of sockets, and the table they keep.
//!
//! They run in every process of the cgroup they are attached to, for every network namespace:
//! those of a node act on its own and, if that is wanted, on those of its pods.

use aya_ebpf::{
    bindings::{BPF_ANY, bpf_sock_addr},
    helpers::generated::{bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_set_retval},
    macros::cgroup_sock_addr,
    programs::SockAddrContext,
};
use lb_common::{
    Port, V4, V6, kernel,
    socket::{Cookie, SocketKey, SocketPeer},
};
use lb_ebpf::{Answer, Call, InsertError, Operation, Sockets, lead, lead_v6, service, service_v6};

use crate::{maps, tables::KernelTables, words};

#[cgroup_sock_addr(connect4)]
#[inline(always)]
#[expect(clippy::needless_pass_by_value, reason = "the macro hands it over")]
fn sock_connect4(ctx: SockAddrContext) -> i32 {
    lead4(Operation::Connect, ctx.sock_addr)
}

#[cgroup_sock_addr(connect6)]
#[inline(always)]
#[expect(clippy::needless_pass_by_value, reason = "the macro hands it over")]
fn sock_connect6(ctx: SockAddrContext) -> i32 {
    lead6(Operation::Connect, ctx.sock_addr)
}

#[cgroup_sock_addr(sendmsg4)]
#[inline(always)]
#[expect(clippy::needless_pass_by_value, reason = "the macro hands it over")]
fn sock_sendmsg4(ctx: SockAddrContext) -> i32 {
    lead4(Operation::Send, ctx.sock_addr)
}

#[cgroup_sock_addr(sendmsg6)]
#[inline(always)]
#[expect(clippy::needless_pass_by_value, reason = "the macro hands it over")]
fn sock_sendmsg6(ctx: SockAddrContext) -> i32 {
    lead6(Operation::Send, ctx.sock_addr)
}

#[cgroup_sock_addr(recvmsg4)]
#[inline(always)]
#[expect(clippy::needless_pass_by_value, reason = "the macro hands it over")]
fn sock_recvmsg4(ctx: SockAddrContext) -> i32 {
    name4(ctx.sock_addr)
}

#[cgroup_sock_addr(recvmsg6)]
#[inline(always)]
#[expect(clippy::needless_pass_by_value, reason = "the macro hands it over")]
fn sock_recvmsg6(ctx: SockAddrContext) -> i32 {
    name6(ctx.sock_addr)
}

#[cgroup_sock_addr(getpeername4)]
#[inline(always)]
#[expect(clippy::needless_pass_by_value, reason = "the macro hands it over")]
fn sock_getpeername4(ctx: SockAddrContext) -> i32 {
    name4(ctx.sock_addr)
}

#[cgroup_sock_addr(getpeername6)]
#[inline(always)]
#[expect(clippy::needless_pass_by_value, reason = "the macro hands it over")]
fn sock_getpeername6(ctx: SockAddrContext) -> i32 {
    name6(ctx.sock_addr)
}

/// The call goes on; the only answer where a process is told something.
const PROCEED: i32 = 1;
/// The call fails, with `EPERM` unless another error was set.
const FAIL: i32 = 0;
const ECONNREFUSED: i32 = 111;

#[inline(always)]
fn lead4(operation: Operation, ctx: *mut bpf_sock_addr) -> i32 {
    let tables = KernelTables::of_socket(ctx);
    let outcome = lead(
        operation,
        &call(ctx, read4(ctx)),
        &mut SocketTable { ctx },
        &tables,
    );
    if outcome.answer == Answer::Lead {
        write4(ctx, outcome.peer);
    }
    verdict(outcome.answer)
}

#[inline(always)]
fn lead6(operation: Operation, ctx: *mut bpf_sock_addr) -> i32 {
    let tables = KernelTables::of_socket(ctx);
    let outcome = lead_v6(
        operation,
        &call(ctx, read6(ctx)),
        &mut SocketTable { ctx },
        &tables,
    );
    if outcome.answer == Answer::Lead {
        write6(ctx, outcome.peer);
    }
    verdict(outcome.answer)
}

#[inline(always)]
fn name4(ctx: *mut bpf_sock_addr) -> i32 {
    let tables = KernelTables::of_socket(ctx);
    if let Some(peer) = service(&call(ctx, read4(ctx)), &SocketTable { ctx }, &tables) {
        write4(ctx, peer);
    }
    PROCEED
}

#[inline(always)]
fn name6(ctx: *mut bpf_sock_addr) -> i32 {
    let tables = KernelTables::of_socket(ctx);
    if let Some(peer) = service_v6(&call(ctx, read6(ctx)), &SocketTable { ctx }, &tables) {
        write6(ctx, peer);
    }
    PROCEED
}

#[inline(always)]
fn verdict(answer: Answer) -> i32 {
    match answer {
        Answer::Pass | Answer::Lead => PROCEED,
        Answer::Refuse => {
            if maps::KERNEL_LACKS.load() & kernel::RETVAL == 0 {
                // SAFETY: the helper takes a number only; these hooks may call it.
                unsafe { bpf_set_retval(-ECONNREFUSED) };
            }
            FAIL
        }
        Answer::Forbid => FAIL,
    }
}

#[inline(always)]
fn call<A>(ctx: *mut bpf_sock_addr, peer: (A, Port)) -> Call<A> {
    // SAFETY: the context is the program's own.
    let (netns, proto) = unsafe {
        (
            bpf_get_netns_cookie(ctx.cast()),
            (&raw const (*ctx).protocol).read_volatile(),
        )
    };
    Call {
        netns: Cookie::new(netns),
        // Numbers beyond those of the IP header (multipath TCP has one) are nobody's here.
        proto: u8::try_from(proto).unwrap_or(0),
        peer,
    }
}

// The kernel rewrites each access to the context: one word at a time, as it knows them.

#[inline(always)]
fn read4(ctx: *mut bpf_sock_addr) -> (V4, Port) {
    // SAFETY: the context is the program's own, and of an IPv4 hook.
    let addr = unsafe { (&raw const (*ctx).user_ip4).read_volatile() };
    ([addr], port(ctx))
}

#[inline(always)]
fn write4(ctx: *mut bpf_sock_addr, ([addr], port): (V4, Port)) {
    // SAFETY: as for `read4`; these hooks may write both.
    unsafe {
        (&raw mut (*ctx).user_ip4).write_volatile(addr);
        (&raw mut (*ctx).user_port).write_volatile(port.word().into());
    }
}

#[inline(always)]
fn read6(ctx: *mut bpf_sock_addr) -> (V6, Port) {
    // SAFETY: the context is the program's own, and of an IPv6 hook.
    let addr = unsafe {
        let words = (&raw const (*ctx).user_ip6).cast::<u32>();
        [0, 1, 2, 3].map(|word| words.add(word).read_volatile())
    };
    (addr, port(ctx))
}

#[inline(always)]
fn write6(ctx: *mut bpf_sock_addr, (addr, port): (V6, Port)) {
    // SAFETY: as for `read6`; these hooks may write both.
    unsafe {
        let words = (&raw mut (*ctx).user_ip6).cast::<u32>();
        words.write_volatile(addr[0]);
        words.add(1).write_volatile(addr[1]);
        words.add(2).write_volatile(addr[2]);
        words.add(3).write_volatile(addr[3]);
        (&raw mut (*ctx).user_port).write_volatile(port.word().into());
    }
}

#[inline(always)]
fn port(ctx: *mut bpf_sock_addr) -> Port {
    // SAFETY: the context is the program's own.
    let word = unsafe { (&raw const (*ctx).user_port).read_volatile() };
    Port::from_word(word as u16)
}

/// Both families' tables of led sockets, for one call.
struct SocketTable {
    ctx: *mut bpf_sock_addr,
}

macro_rules! family {
    ($addr:ty, $sockets:ident, $own:ident) => {
        impl Sockets<$addr> for SocketTable {
            #[inline(always)]
            fn cookie(&self) -> Cookie {
                // SAFETY: the context is the program's own.
                Cookie::new(unsafe { bpf_get_socket_cookie(self.ctx.cast()) })
            }

            #[inline(always)]
            fn get(&self, key: &SocketKey<$addr>) -> Option<&SocketPeer<$addr>> {
                // SAFETY: the row lives until the next grace period, which outlasts this program,
                // and rows are replaced as a whole.
                words::found(unsafe { maps::$sockets.get(key) })
            }

            #[inline(always)]
            fn insert(
                &mut self,
                key: &SocketKey<$addr>,
                peer: &SocketPeer<$addr>,
            ) -> Result<(), InsertError> {
                let inserted = maps::$sockets.insert(key, peer, u64::from(BPF_ANY));
                inserted.map_err(|_| InsertError::Busy)
            }

            #[inline(always)]
            fn pod(&self, netns: Cookie) -> Option<&$addr> {
                // SAFETY: as for `get`.
                let pod = words::found(unsafe { maps::NETNS.get(&netns) });
                pod.map(|addresses| &addresses.$own)
            }
        }
    };
}

family!(V4, SOCKETS4, v4);
family!(V6, SOCKETS6, v6);
