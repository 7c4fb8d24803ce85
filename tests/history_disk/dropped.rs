//! Histories that end since nothing can be stored, which is let pass all the same (`--history-error drop`).

use super::faults::{Faults, Scene, WRITES};
use super::{Event, Events, Home};
use crate::common::http::get;
use crate::common::{Server, eventually};

/// Has a channel's history fail, and the note that its epoch has ended as well.
#[track_caller]
fn inject(server: &Server, home: &Home, channel: &str) -> Option<Faults> {
    let mut files = home.segments(channel);
    let names = ["next-epoch", "next-epoch.new"];
    files.extend(names.map(|name| home.histories().join(channel).join(name)));
    let calls = format!("openat,{WRITES}");
    Faults::inject_at(server, &files, &calls, "error=EROFS")
}

#[test]
fn dropped_history_ends_its_epoch_and_its_sessions() {
    let mut scene = Scene::new(&["--history-error=drop"]);
    let Some(faults) = Faults::inject(&scene.server, WRITES, "error=ENOSPC") else {
        return;
    };
    scene.sender.send("passes");
    assert_eq!(scene.reader.message(), (2, "passes".to_owned()));
    // It was not stored, and nobody says that it was.
    let told = scene.sender.next();
    let Event::Other(told) = told else {
        panic!("{told:?}")
    };
    assert_eq!(told["reason"], "session_ended", "{told}");
    assert_eq!(scene.sender.next(), Event::End);
    faults.end();

    let mut sender = Events::join(&scene.home.address(), "role=publish");
    let second = sender.epoch().to_owned();
    assert_ne!(second, scene.epoch);
    sender.send("goes on");
    assert_eq!(scene.reader.message(), (3, "goes on".to_owned()));
    let mut resumed = Events::join(&scene.home.address(), &format!("since={}:1", scene.epoch));
    assert_eq!(resumed.hello["recovered"], false);
    sender.send("more");
    assert_eq!(resumed.message(), (4, "more".to_owned()));
    drop((sender, resumed));
    scene.server.stop();

    // What was kept is there, but the numbers that were given to what was not are not of its epoch.
    let _server = scene.home.start();
    let mut newcomer = Events::join(&scene.home.address(), "history=10");
    assert_eq!(newcomer.message(), (1, "stored".to_owned()));
    let third = newcomer.epoch().to_owned();
    assert!(![&scene.epoch, &second].contains(&&third), "{third}");
    for (epoch, seq) in [(&scene.epoch, 2), (&second, 3)] {
        let resumed = Events::join(&scene.home.address(), &format!("since={epoch}:{seq}"));
        assert_eq!(resumed.hello["recovered"], false);
    }
    let mut sender = Events::join(&scene.home.address(), "role=publish session=s ack");
    assert_eq!(sender.taken(), 1);
    sender.send("kept again");
    assert_eq!(newcomer.message(), (2, "kept again".to_owned()));
}

#[test]
fn end_of_an_epoch_is_written_down_when_a_dropped_history_can_be_written_again() {
    // By itself, or at the latest when the daemon ends.
    for waits in [true, false] {
        let mut scene = Scene::new(&["--history-error=drop"]);
        let Some(faults) = inject(&scene.server, &scene.home, "main") else {
            return;
        };
        scene.sender.send("passes");
        assert_eq!(scene.reader.message(), (2, "passes".to_owned()));
        scene
            .server
            .wait_log("a restart may go on with the epoch that ends here");
        faults.end();
        if waits {
            scene
                .server
                .wait_log("a restart goes on with another epoch");
        }
        scene.server.stop();
        let _server = scene.home.start();
        // Its number 2 would be another line.
        let resumed = Events::join(&scene.home.address(), &format!("since={}:2", scene.epoch));
        assert_eq!(resumed.hello["recovered"], false);
        assert_ne!(resumed.epoch(), scene.epoch);
    }
}

#[test]
fn channel_whose_history_was_dropped_stays_until_the_end_of_its_epoch_is_written_down() {
    let home = Home::new(&[
        "--history=1MiB",
        "--history-error=drop",
        "--open-channels=5",
        "--admin=127.0.0.1:0",
    ]);
    let server = home.start();
    let join = |words: &str| Events::join(&home.address(), &format!("channel=c {words}"));
    let mut sender = join("role=publish session=s ack");
    let mut reader = join("");
    sender.send("stored");
    assert_eq!(sender.next(), Event::Ack(1));
    assert_eq!(reader.message(), (1, "stored".to_owned()));
    let first = reader.epoch().to_owned();
    let Some(faults) = inject(&server, &home, "c") else {
        return;
    };
    sender.send("passes");
    assert_eq!(reader.message(), (2, "passes".to_owned()));
    server.wait_log("a restart may go on with the epoch that ends here");
    drop((sender, reader));
    let clients = "linehub_clients";
    eventually("all have left", || {
        get(&server.admin(), "/metrics").sample(clients) == 0.0
    });
    // It would go on in the epoch whose numbers went to what was not kept.
    let second = join("").epoch().to_owned();
    assert_ne!(second, first);
    faults.end();
    server.wait_log("a restart goes on with another epoch");
    // Now it ends, and is gone on with by who opens it.
    eventually("it has ended", || join("").epoch() != second);
    let mut newcomer = join("history=10");
    assert_eq!(newcomer.message(), (1, "stored".to_owned()));
    assert_ne!(newcomer.epoch(), first);
}
