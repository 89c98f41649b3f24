//! The endpoints of one store, and requests that go to the first of them that answers.
//!
//! The client library can spread requests over endpoints, but then one that is dead fails its share of them. Here each
//! endpoint has a connection of its own, and all requests go to the one that answered last until it fails.

use std::{
    future::Future,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use etcd_client::{Client, ConnectOptions};
use tokio::{
    sync::Mutex,
    time::{Instant, sleep, timeout_at},
};

use super::{
    Error, PATIENCE,
    error::{Failure, brief, classify},
};

/// How long one endpoint may take to answer one request; doubled after every endpoint failed. A member whose leader died
/// sits on a request, so this is what a change of leaders costs.
const ATTEMPT: Duration = Duration::from_secs(2);
/// Pause after every endpoint failed; doubled each time, up to the second.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

#[derive(Debug)]
pub(super) struct Members {
    members: Vec<Member>,
    /// Index of the one to ask first.
    preferred: AtomicUsize,
}

struct Member {
    url: String,
    options: ConnectOptions,
    user: Option<(String, String)>,
    connection: Mutex<Connection>,
}

#[derive(Default)]
struct Connection {
    /// Counts the connections, so that a late failure does not close the next one.
    number: u64,
    client: Option<Client>,
}

impl std::fmt::Debug for Member {
    /// Leaves out the password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Member").field(&self.url).finish()
    }
}

impl Members {
    /// Begins with a random endpoint, so that the nodes of a cluster spread over them.
    pub(super) fn new(urls: &[String], options: &ConnectOptions, user: Option<&(String, String)>) -> Self {
        let member = |url: &String| Member {
            url: url.clone(),
            options: options.clone(),
            user: user.cloned(),
            connection: Mutex::default(),
        };
        let preferred = AtomicUsize::new(rand::random_range(0..urls.len().max(1)));
        Self { members: urls.iter().map(member).collect(), preferred }
    }

    pub(super) fn urls(&self) -> Vec<String> {
        self.members.iter().map(|member| member.url.clone()).collect()
    }

    pub(super) fn preferred_url(&self) -> &str {
        self.members.get(self.preferred.load(Ordering::Relaxed)).map_or("", |member| &member.url)
    }

    /// Asks the next endpoint first from now on: the preferred one misbehaved.
    pub(super) fn move_on(&self) {
        self.preferred.store((self.preferred.load(Ordering::Relaxed) + 1) % self.members.len(), Ordering::Relaxed);
    }

    /// Sends a request to the endpoints in turn until one answers, for at most [`PATIENCE`].
    ///
    /// A request may be carried out although its answer was lost: it must be one that can be sent again.
    pub(super) async fn call<T, F, R>(&self, what: &'static str, request: F) -> Result<T, Error>
    where
        F: Fn(Client) -> R,
        R: Future<Output = Result<T, etcd_client::Error>>,
    {
        let deadline = Instant::now() + PATIENCE;
        let (mut attempt, mut pause) = (ATTEMPT, PAUSE.0);
        loop {
            let mut tried = Vec::new();
            let first = self.preferred.load(Ordering::Relaxed);
            for index in (first..first + self.members.len()).map(|index| index % self.members.len()) {
                let member = &self.members[index];
                let until = deadline.min(Instant::now() + attempt);
                match Box::pin(member.attempt(until, &request)).await {
                    Ok(answer) => {
                        self.preferred.store(index, Ordering::Relaxed);
                        return Ok(answer);
                    }
                    Err((failure @ (Failure::Refusal | Failure::Conflict), why)) => {
                        let lasting = failure == Failure::Refusal;
                        return Err(Error::Refused { what, endpoint: member.url.clone(), why, lasting });
                    }
                    Err((_, why)) => tried.push(format!("{}: {why}", member.url)),
                }
            }
            if Instant::now() + pause >= deadline {
                return Err(Error::Unanswered { what, tried: tried.join("; ") });
            }
            sleep(pause).await;
            (attempt, pause) = (attempt * 2, (pause * 2).min(PAUSE.1));
        }
    }
}

impl Member {
    async fn attempt<T, F, R>(&self, until: Instant, request: F) -> Result<T, (Failure, String)>
    where
        F: Fn(Client) -> R,
        R: Future<Output = Result<T, etcd_client::Error>>,
    {
        let (number, result) = match timeout_at(until, self.client()).await {
            Ok(Ok((number, client))) => (number, timeout_at(until, request(client)).await),
            Ok(Err(error)) => return Err((classify(&error), brief(&error))),
            Err(_) => return Err((Failure::Passing, "no connection in time".to_owned())),
        };
        let failure = match result {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => (classify(&error), brief(&error)),
            Err(_) => (Failure::Passing, "no answer in time".to_owned()),
        };
        if matches!(failure.0, Failure::Passing | Failure::StaleToken) {
            self.disconnect(number).await;
        }
        Err(failure)
    }

    /// The connection and its number; makes one if there is none.
    async fn client(&self) -> Result<(u64, Client), etcd_client::Error> {
        let mut connection = self.connection.lock().await;
        if let Some(client) = &connection.client {
            return Ok((connection.number, client.clone()));
        }
        let client = match self.connect(self.user.clone()).await {
            // A user is given, but the store does not ask for one.
            Err(error) if brief(&error).contains("authentication is not enabled") => self.connect(None).await?,
            client => client?,
        };
        connection.number += 1;
        connection.client = Some(client.clone());
        Ok((connection.number, client))
    }

    async fn connect(&self, user: Option<(String, String)>) -> Result<Client, etcd_client::Error> {
        let options = match user {
            Some((name, password)) => self.options.clone().with_user(name, password),
            None => self.options.clone(),
        };
        Client::connect([&self.url], Some(options)).await
    }

    /// Forgets a connection that failed, so that the next request makes a new one.
    async fn disconnect(&self, number: u64) {
        let mut connection = self.connection.lock().await;
        if connection.number == number {
            connection.client = None;
        }
    }
}
