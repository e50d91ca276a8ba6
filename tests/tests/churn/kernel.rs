//! Real BPF maps, pinned in a BPF filesystem nobody else sees and that is gone with its owner.

use std::{
    fs,
    os::fd::{AsRawFd, OwnedFd},
    path::PathBuf,
};

use aya::{
    Pod,
    maps::{Array, HashMap, LpmTrie, MapData},
};
use lb_common::{
    V4, V6, maps,
    service::{ABSENT_BITS, Backend, Frontend, FrontendKey, ServiceName, SourceRange},
};
use lb_userspace::{
    maps::{Capacities, Family, FamilyCapacities, Kernel},
    pins::Pins,
};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

/// `BPF_F_MMAPABLE` of linux/bpf.h.
const MMAPABLE: u32 = 1 << 10;
/// `BPF_F_NO_PREALLOC`, without which there is no trie.
const NO_PREALLOC: u32 = 1;

/// Pinned maps.
pub(crate) struct Pinned {
    mount: OwnedFd,
}

impl Pinned {
    /// Creates and pins empty service maps.
    pub(crate) fn create(capacities: Capacities) -> Self {
        let filesystem = fsopen("bpf", FsOpenFlags::FSOPEN_CLOEXEC)
            .expect("these tests make BPF maps: they need root and a kernel with bpffs");
        fsconfig_create(&filesystem).unwrap();
        let attributes = MountAttrFlags::empty();
        let mount = fsmount(&filesystem, FsMountFlags::FSMOUNT_CLOEXEC, attributes).unwrap();
        let pinned = Self { mount };
        let pins = pinned.pins();
        fs::create_dir_all(pins.maps()).unwrap();
        pin_family::<V4>(&pins, capacities.v4);
        pin_family::<V6>(&pins, capacities.v6);
        HashMap::<MapData, u32, ServiceName>::create(capacities.services, 0)
            .unwrap()
            .pin(pins.map(maps::SERVICE_NAMES))
            .unwrap();
        pinned
    }

    /// Opens them as the agent does.
    pub(crate) fn open(&self) -> Kernel {
        Kernel::open(&self.pins()).unwrap()
    }

    fn pins(&self) -> Pins {
        // The mount is attached nowhere; its descriptor is the way to it.
        let root = PathBuf::from(format!("/proc/self/fd/{}", self.mount.as_raw_fd()));
        Pins::new(&root)
    }
}

fn pin_family<A: Family>(pins: &Pins, capacities: FamilyCapacities)
where
    FrontendKey<A>: Pod,
    Backend<A>: Pod,
    SourceRange<A>: Pod,
{
    HashMap::<MapData, FrontendKey<A>, Frontend>::create(capacities.frontends, 0)
        .unwrap()
        .pin(pins.map(A::FRONTENDS))
        .unwrap();
    Array::<MapData, u64>::create(ABSENT_BITS / 64, MMAPABLE)
        .unwrap()
        .pin(pins.map(A::ABSENT))
        .unwrap();
    Array::<MapData, u32>::create(capacities.slots, MMAPABLE)
        .unwrap()
        .pin(pins.map(A::SLOTS))
        .unwrap();
    Array::<MapData, Backend<A>>::create(capacities.backends, MMAPABLE)
        .unwrap()
        .pin(pins.map(A::BACKENDS))
        .unwrap();
    LpmTrie::<MapData, SourceRange<A>, u32>::create(capacities.source_ranges, NO_PREALLOC)
        .unwrap()
        .pin(pins.map(A::SOURCE_RANGES))
        .unwrap();
}
