//! A thing for each address family.

/// What there is of each family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::agent) struct PerFamily<T> {
    /// IPv4.
    pub(in crate::agent) v4: T,
    /// IPv6.
    pub(in crate::agent) v6: T,
}

impl<T> PerFamily<T> {
    /// Both, under the names that health answers and metrics give them.
    pub(super) fn named(&self) -> [(&'static str, &T); 2] {
        [("IPv4", &self.v4), ("IPv6", &self.v6)]
    }

    /// Both, to be changed.
    pub(super) const fn each_mut(&mut self) -> [&mut T; 2] {
        [&mut self.v4, &mut self.v6]
    }
}

impl<T: Copy> PerFamily<T> {
    /// The same for both.
    pub(in crate::agent) const fn both(value: T) -> Self {
        Self {
            v4: value,
            v6: value,
        }
    }
}
