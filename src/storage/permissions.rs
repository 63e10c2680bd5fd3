//! What a user may do in a folder.

/// One thing that can be allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    List,
    Download,
    /// New files.
    Upload,
    /// Putting a file in the place of another.
    Overwrite,
    Append,
    Delete,
    Rename,
    Mkdir,
    Rmdir,
    /// Times of modification.
    Touch,
    Chmod,
    /// Symbolic links. In no preset: programs of the host follow them too.
    Symlink,
}

use Permission::{
    Append, Chmod, Delete, Download, List, Mkdir, Overwrite, Rename, Rmdir, Symlink, Touch, Upload,
};

impl Permission {
    pub const ALL: [Self; 12] = [
        List, Download, Upload, Overwrite, Append, Delete, Rename, Mkdir, Rmdir, Touch, Chmod,
        Symlink,
    ];

    /// As it is written in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            List => "list",
            Download => "download",
            Upload => "upload",
            Overwrite => "overwrite",
            Append => "append",
            Delete => "delete",
            Rename => "rename",
            Mkdir => "mkdir",
            Rmdir => "rmdir",
            Touch => "touch",
            Chmod => "chmod",
            Symlink => "symlink",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|permission| permission.name() == name)
    }
}

/// A set of permissions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permissions(u16);

impl Permissions {
    pub const NONE: Self = Self(0);
    /// All that is done to files: what is granted unless something else is said.
    pub const ALL: Self = Self(((1 << Permission::ALL.len()) - 1) & !(1 << Symlink as u16));
    pub const READ_ONLY: Self = Self::NONE.with(List).with(Download);
    /// A drop folder: in, but not out.
    pub const UPLOAD_ONLY: Self = Self::NONE.with(Upload).with(Mkdir);
    /// What was stored stays as it was stored.
    pub const ADD_ONLY: Self = Self::READ_ONLY.with(Upload).with(Mkdir);

    /// The presets, by their names in the configuration.
    pub const PRESETS: [(&'static str, Self); 4] = [
        ("read-only", Self::READ_ONLY),
        ("read-write", Self::ALL),
        ("upload-only", Self::UPLOAD_ONLY),
        ("add-only", Self::ADD_ONLY),
    ];

    pub fn preset(name: &str) -> Option<Self> {
        Self::PRESETS
            .into_iter()
            .find(|(known, _)| *known == name)
            .map(|(_, permissions)| permissions)
    }

    pub const fn contains(self, permission: Permission) -> bool {
        self.0 & (1 << permission as u16) != 0
    }

    #[must_use]
    pub const fn with(self, permission: Permission) -> Self {
        Self(self.0 | 1 << permission as u16)
    }

    #[must_use]
    pub fn without(self, permission: Permission) -> Self {
        Self(self.0 & !(1 << permission as u16))
    }

    /// What is in both.
    pub fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The names of all that it holds.
    pub fn names(self) -> Vec<&'static str> {
        Permission::ALL
            .into_iter()
            .filter(|permission| self.contains(*permission))
            .map(Permission::name)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_hold_what_their_names_say() {
        assert_eq!(
            Permissions::preset("read-only").unwrap().names(),
            ["list", "download"]
        );
        let add_only = Permissions::preset("add-only").unwrap();
        assert!(
            add_only.contains(Upload)
                && !add_only.contains(Overwrite)
                && !add_only.contains(Delete)
        );
        assert_eq!(Permissions::preset("read-write"), Some(Permissions::ALL));
        assert_eq!(Permissions::preset("all"), None);
        for (name, preset) in Permissions::PRESETS {
            assert!(!preset.contains(Symlink), "{name}");
        }
        assert_eq!(Permissions::ALL.names().len(), Permission::ALL.len() - 1);
        assert!(
            Permission::ALL
                .into_iter()
                .all(|one| Permission::named(one.name()) == Some(one))
        );
    }
}
