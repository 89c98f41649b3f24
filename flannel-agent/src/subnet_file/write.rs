//! Writing the file: whole or not at all.

use std::{
    fs::{self, DirBuilder, File, Permissions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::Path,
};

use super::{SubnetFile, SubnetFileError};

/// Mode of a new file: scripts of every user read it.
const MODE: u32 = 0o644;
const DIR_MODE: u32 = 0o755;

/// Replaces the file in one step: a reader sees the old text or the new one, and a failure leaves the old one.
///
/// A symbolic link is replaced, not followed; the mode of an existing file is kept.
pub fn write(path: &Path, file: &SubnetFile) -> Result<(), SubnetFileError> {
    let dir = directory(path);
    let made = DirBuilder::new().recursive(true).mode(DIR_MODE).create(dir);
    made.map_err(|source| SubnetFileError::new(path, "making its directory", source))?;
    replace(path, file.to_string().as_bytes()).map_err(|(action, source)| SubnetFileError::new(path, action, source))
}

/// Replaces any file in one step; the error says what was tried.
///
/// The temporary file is made beside the target, so that the rename stays on one file system and the security label is
/// right.
pub(crate) fn replace(path: &Path, text: &[u8]) -> Result<(), (&'static str, io::Error)> {
    let fail = |action| move |source: io::Error| (action, source);
    let dir = directory(path);
    let mode = fs::symlink_metadata(path).ok().filter(fs::Metadata::is_file).map_or(MODE, |m| m.permissions().mode());
    let mut temp = tempfile::Builder::new()
        .prefix(".subnet.env")
        .tempfile_in(dir)
        .map_err(fail("making a temporary file beside it"))?;
    temp.write_all(text).map_err(fail("writing its text"))?;
    let permissions = Permissions::from_mode(mode & 0o7777);
    temp.as_file().set_permissions(permissions).map_err(fail("setting the mode of its temporary file"))?;
    temp.as_file().sync_all().map_err(fail("writing its text to disk"))?;
    temp.persist(path).map_err(|e| ("replacing it", e.error))?;
    // The rename itself is on disk only when the directory is; some file systems cannot sync one, and need not.
    drop(File::open(dir).and_then(|d| d.sync_all()));
    Ok(())
}

fn directory(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
