use super::super::made_up;
use super::*;
use crate::config::Config;
use crate::config::cli::Options;
use crate::hub::history::HistoryStats;
use crate::hub::{self, ChannelStats, Channels};
use crate::net::permits::ConnectionLimit;
use crate::ops::lifecycle::Lifecycle;

#[tokio::test(start_paused = true)]
async fn hub_that_does_nothing_any_more_is_not_healthy() {
    let config = Config::from_options(&Options::default(), 1024).unwrap();
    let channels = Channels::new(&config);
    let lifecycle = Lifecycle::new();
    let permits = ConnectionLimit::new(None);
    let router = Router {
        state: Arc::new(AdminState::new(
            channels.clone(),
            lifecycle,
            Arc::default(),
            permits,
            Arc::default(),
        )),
        events: Events::new(),
        hosts: Arc::new(AllowedHosts::new(Vec::new())),
        is_tcp: false,
    };
    // Its sweep does not run.
    assert_eq!(
        router.health().await.status(),
        StatusCode::SERVICE_UNAVAILABLE
    );
    let sweep = tokio::spawn(hub::reap(channels));
    assert_eq!(router.health().await.status(), StatusCode::OK);
    sweep.abort();
}

/// What `/readyz` says while these channels are served.
async fn readiness_with(each: Vec<ChannelStats>) -> (StatusCode, String) {
    let stats = ChannelsStats {
        each,
        ..ChannelsStats::default()
    };
    readiness_of(&stats).await
}

async fn readiness_of(stats: &ChannelsStats) -> (StatusCode, String) {
    let response = readiness(Phase::Running, stats);
    let status = response.status();
    let Ok(body) = response.into_body().collect().await;
    (status, String::from_utf8(body.to_bytes().to_vec()).unwrap())
}

#[tokio::test]
async fn daemon_whose_history_has_failed_is_not_ready_and_says_whose_and_why() {
    let fine = made_up::channel("a", Some(made_up::history()));
    let none = made_up::channel("main", None);
    let failed = |name: &str| {
        let history = HistoryStats {
            error: Some("No space left on device (os error 28)".to_owned()),
            ..made_up::history()
        };
        made_up::channel(name, Some(history))
    };
    assert_eq!(
        readiness_with(vec![fine.clone(), none.clone()]).await,
        (StatusCode::OK, "running\n".to_owned())
    );
    let (status, why) = readiness_with(vec![fine, failed("b"), failed("c"), none]).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(
        why,
        "history of channel b: No space left on device (os error 28)\n\
         history of channel c: No space left on device (os error 28)\n"
    );
    let many = (0..2 * FAILED_MAX).map(|number| failed(&format!("c{number}")));
    let (_, why) = readiness_with(many.collect()).await;
    assert_eq!(why.lines().count(), FAILED_MAX);
}

#[tokio::test]
async fn daemon_whose_nats_is_away_or_whose_channel_stands_still_is_not_ready() {
    let stopped = "the stream is full";
    let mut stats = ChannelsStats {
        each: vec![
            made_up::shared("a", None),
            made_up::shared("b", Some(stopped)),
        ],
        cluster: Some(made_up::cluster(false)),
        ..ChannelsStats::default()
    };
    let unavailable = |why: &str| (StatusCode::SERVICE_UNAVAILABLE, why.to_owned());
    let away = unavailable("NATS is away: connection refused\n");
    assert_eq!(readiness_of(&stats).await, away);
    stats.cluster = Some(made_up::cluster(true));
    let still = unavailable("channel b: the stream is full\n");
    assert_eq!(readiness_of(&stats).await, still);
    stats.each.pop();
    assert_eq!(readiness_of(&stats).await.0, StatusCode::OK);
}
