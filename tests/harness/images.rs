//! Importing the images that `tests/lib/images.sh` built.

use crate::{Node, Result, config};

/// Imports `images/NAME.tar` of the cache, which becomes `curb.test/NAME:1` for CRI.
pub async fn import(node: &Node, name: &str) -> Result<()> {
    let archive = config::cache().join(format!("images/{name}.tar"));
    if !archive.exists() {
        return Err(format!("{} is missing: run `tests/run prepare` once", archive.display()).into());
    }
    let ctr = node.settings().containerd.bin.join("ctr");
    node.run(&[&ctr.to_string_lossy(), "-n", "k8s.io", "images", "import", &archive.to_string_lossy()])?;
    node.wait_for_image(&reference(name)).await
}

/// The name of an imported image.
pub fn reference(name: &str) -> String {
    format!("curb.test/{name}:1")
}
