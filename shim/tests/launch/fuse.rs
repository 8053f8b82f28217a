//! A volume of a file system whose server does not answer (fuse(4)).

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::fuse::Server;
use crate::support::*;

pub async fn a_volume_whose_server_hangs_is_bounded() {
    for greets in [false, true] {
        let mut server = Server::mount();
        if greets {
            server.greet();
            server.take_requests();
        }
        let mut bundle = Bundle::sh("true");
        bundle.mount(
            json!({ "destination": "/v", "type": "bind", "source": server.path().join("below"), "options": ["rbind"] }),
        );
        let begin = Instant::now();
        let created = launcher().limit(Duration::from_secs(1)).create(bundle.request().await.0).await;
        let error = chain(&created.expect_err("nobody answered"));
        println!("    greets {greets}: {error} after {:?}", begin.elapsed());
        assert!(begin.elapsed() < Duration::from_secs(15), "{:?}", begin.elapsed());
        assert!(error.contains("not done within 1 s"), "{error}");
        drop(server);
        settle();
    }
}
