//! Commands against a control plane that is made up, over real gRPC on loopback.

use crate::answer::Answer;
use crate::args::Cli;
use crate::server::Failure;
use clap::Parser as _;
use parking_lot::Mutex;
use serde_json::json;
use shunt_proto::pb;
use std::collections::HashMap;
use std::io::Write as _;
use std::sync::Arc;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// Answers as a control plane would, and notes what it was asked.
#[derive(Clone, Default)]
struct Fake {
    labelled: Arc<Mutex<Vec<pb::LabelCnRequest>>>,
    created: Arc<Mutex<Vec<pb::Cn>>>,
    applied: Arc<Mutex<Vec<pb::ApplyRequest>>>,
}

/// An answer that no test needs.
fn unneeded<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("not in this test"))
}

type Answered<T> = Result<Response<T>, Status>;

fn cn(i: usize) -> pb::Cn {
    pb::Cn { name: format!("cn-{i}"), address: "127.0.0.1:1".into(), sessions: 2, ..pb::Cn::default() }
}

#[tonic::async_trait]
impl pb::cn_service_server::CnService for Fake {
    async fn create_cn(&self, request: Request<pb::CreateCnRequest>) -> Answered<pb::Cn> {
        let cn = request.into_inner().cn.unwrap();
        self.created.lock().push(cn.clone());
        Ok(Response::new(cn))
    }

    async fn get_cn(&self, request: Request<pb::GetCnRequest>) -> Answered<pb::Cn> {
        match request.into_inner().name.as_str() {
            "cn-1" => Ok(Response::new(cn(1))),
            "silent" => std::future::pending().await,
            name => {
                let mut details = ErrorDetails::with_error_info("CN_UNKNOWN", "shunt", HashMap::new());
                details.add_bad_request_violation("name", "is of no CN");
                let message = format!("no CN is named {name}");
                Err(Status::with_error_details(tonic::Code::NotFound, message, details))
            }
        }
    }

    /// 2,500 CNs in pages of 1000, or (group "endless") one page for ever.
    async fn list_cns(&self, request: Request<pb::ListCnsRequest>) -> Answered<pb::ListCnsResponse> {
        let pb::ListCnsRequest { page_size, page_token, group } = request.into_inner();
        if group == "endless" {
            let next_page_token = "again".into();
            return Ok(Response::new(pb::ListCnsResponse { cns: vec![cn(1)], next_page_token }));
        }
        let first: usize = if page_token.is_empty() { 0 } else { page_token.parse().unwrap() };
        let end = (first + usize::try_from(page_size).unwrap()).min(2500);
        let next_page_token = if end < 2500 { end.to_string() } else { String::new() };
        Ok(Response::new(pb::ListCnsResponse { cns: (first..end).map(cn).collect(), next_page_token }))
    }

    async fn update_cn(&self, _: Request<pb::UpdateCnRequest>) -> Answered<pb::Cn> {
        unneeded()
    }

    async fn label_cn(&self, request: Request<pb::LabelCnRequest>) -> Answered<pb::Cn> {
        self.labelled.lock().push(request.into_inner());
        Ok(Response::new(cn(1)))
    }

    async fn drain_cn(&self, request: Request<pb::DrainCnRequest>) -> Answered<pb::Cn> {
        let state = pb::cn::State::Draining.into();
        Ok(Response::new(pb::Cn { name: request.into_inner().name, state, ..pb::Cn::default() }))
    }

    async fn undrain_cn(&self, request: Request<pb::UndrainCnRequest>) -> Answered<pb::Cn> {
        let state = pb::cn::State::Working.into();
        Ok(Response::new(pb::Cn { name: request.into_inner().name, state, ..pb::Cn::default() }))
    }

    async fn delete_cn(&self, _: Request<pb::DeleteCnRequest>) -> Answered<()> {
        Ok(Response::new(()))
    }
}

#[tonic::async_trait]
impl pb::session_service_server::SessionService for Fake {
    async fn list_sessions(&self, _: Request<pb::ListSessionsRequest>) -> Answered<pb::ListSessionsResponse> {
        let session = pb::Session {
            id: 1 << 30,
            user: "a\u{1b}[2J".into(),
            state: pb::session_state::State::Idle.into(),
            pinned: vec!["temporary table".into()],
            ..pb::Session::default()
        };
        let unanswered = vec!["dp-2".into()];
        Ok(Response::new(pb::ListSessionsResponse {
            sessions: vec![session],
            unanswered,
            ..Default::default()
        }))
    }

    async fn get_session(&self, _: Request<pb::GetSessionRequest>) -> Answered<pb::Session> {
        unneeded()
    }

    async fn kill_session(&self, _: Request<pb::KillSessionRequest>) -> Answered<pb::KillSessionResponse> {
        Ok(Response::new(pb::KillSessionResponse {}))
    }

    async fn move_session(&self, request: Request<pb::MoveSessionRequest>) -> Answered<pb::Moved> {
        let pb::MoveSessionRequest { to, .. } = request.into_inner();
        let from = "cn-1".to_owned();
        let moved = match to.as_str() {
            "cn-2" => pb::Moved {
                outcome: pb::moved::Outcome::Moved.into(),
                from,
                to,
                pause: Some(prost_types::Duration { seconds: 0, nanos: 2_500_000 }),
                reasons: Vec::new(),
            },
            _ => pb::Moved {
                outcome: pb::moved::Outcome::Pinned.into(),
                from,
                reasons: vec!["user lock".to_owned()],
                ..pb::Moved::default()
            },
        };
        Ok(Response::new(moved))
    }

    async fn rebalance(&self, request: Request<pb::RebalanceRequest>) -> Answered<pb::RebalancePlan> {
        let pb::RebalanceRequest { dry_run } = request.into_inner();
        let unanswered = if dry_run { vec![] } else { vec!["dp-2".to_owned()] };
        Ok(Response::new(pb::RebalancePlan { dry_run, unanswered, ..pb::RebalancePlan::default() }))
    }
}

#[tonic::async_trait]
impl pb::cluster_service_server::ClusterService for Fake {
    async fn get_status(&self, _: Request<pb::GetStatusRequest>) -> Answered<pb::Status> {
        Ok(Response::new(pb::Status { store: "embedded".into(), revision: 7, ..pb::Status::default() }))
    }

    async fn get_policy(&self, _: Request<pb::GetPolicyRequest>) -> Answered<pb::Policy> {
        Ok(Response::new((&shunt_proto::wire::Policy::default()).into()))
    }

    async fn update_policy(&self, _: Request<pb::UpdatePolicyRequest>) -> Answered<pb::Policy> {
        unneeded()
    }

    async fn list_data_planes(
        &self,
        _: Request<pb::ListDataPlanesRequest>,
    ) -> Answered<pb::ListDataPlanesResponse> {
        Ok(Response::new(pb::ListDataPlanesResponse::default()))
    }

    async fn forget_data_plane(&self, request: Request<pb::ForgetDataPlaneRequest>) -> Answered<()> {
        assert_eq!(request.into_inner().id, "dp-1");
        Ok(Response::new(()))
    }

    async fn explain(&self, request: Request<pb::ExplainRequest>) -> Answered<pb::Explanation> {
        let pb::ExplainRequest { tenant, labels, .. } = request.into_inner();
        let candidate = pb::explanation::Candidate {
            cn: "cn-1".into(),
            reason: "lacks the label zone".into(),
            ..pb::explanation::Candidate::default()
        };
        let refusal = pb::explanation::Refusal {
            code: 1105,
            sqlstate: "08004".into(),
            message: "no CN carries …".into(),
        };
        Ok(Response::new(pb::Explanation {
            tenant,
            labels,
            candidates: vec![candidate],
            refusal: Some(refusal),
            summary: "It is refused.".into(),
            ..pb::Explanation::default()
        }))
    }

    async fn apply(&self, request: Request<pb::ApplyRequest>) -> Answered<pb::ApplyResponse> {
        self.applied.lock().push(request.into_inner());
        let change = pb::apply_response::Change { object: "cn/cn-1".into(), what: "created".into() };
        let changes = if self.applied.lock().len() == 1 { vec![change] } else { vec![] };
        Ok(Response::new(pb::ApplyResponse { changes, revision: 8 }))
    }
}

impl Fake {
    /// Serves on a port of its own, which is answered, until the test's runtime ends.
    fn start(&self) -> String {
        use pb::cluster_service_server::ClusterServiceServer;
        use pb::cn_service_server::CnServiceServer;
        use pb::session_service_server::SessionServiceServer;
        let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = incoming.local_addr().unwrap();
        let serve = tonic::transport::Server::builder()
            .add_service(CnServiceServer::new(self.clone()))
            .add_service(SessionServiceServer::new(self.clone()))
            .add_service(ClusterServiceServer::new(self.clone()))
            .serve_with_incoming(incoming);
        tokio::spawn(serve);
        address.to_string()
    }
}

/// What `shuntctl --server <url> <arguments>` does.
async fn run(url: &str, arguments: &[&str]) -> Result<Answer, Failure> {
    let line = ["shuntctl", "--server", url].into_iter().chain(arguments.iter().copied());
    super::run(&Cli::try_parse_from(line).and_then(Cli::checked).unwrap()).await
}

#[tokio::test]
async fn a_list_has_all_its_pages() {
    let url = Fake::default().start();
    let answer = run(&url, &["cn", "list"]).await.unwrap();
    let json = answer.json.unwrap();
    let cns = json["cns"].as_array().unwrap();
    assert_eq!(cns.len(), 2500);
    assert_eq!((&cns[2499]["name"], &cns[2499]["health"]), (&json!("cn-2499"), &json!("unknown")));
    assert_eq!(answer.words.lines().count(), 2501);
    let wanted = "cn-7      127.0.0.1:1   -       -        unspecified   unknown   2";
    assert_eq!(answer.words.lines().nth(8), Some(wanted));
    let failure = run(&url, &["cn", "list", "--group", "endless"]).await.unwrap_err();
    assert!(failure.to_string().contains("the same page"), "{failure}");
}

#[tokio::test]
async fn a_refusal_reads_as_a_sentence() {
    let url = Fake::default().start();
    let failure = run(&url, &["cn", "get", "cn-9"]).await.unwrap_err();
    let wanted = "error: no CN is named cn-9 (NOT_FOUND, CN_UNKNOWN)\n  name: is of no CN";
    assert_eq!(failure.to_string(), wanted);
    let failure = run(&url, &["group", "list"]).await.unwrap_err();
    assert!(failure.to_string().ends_with("(UNIMPLEMENTED)"), "{failure}");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named() {
    // Bound and let go: nobody listens there.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let failure = run(&free.to_string(), &["status"]).await.unwrap_err();
    let wanted = format!("error: UNAVAILABLE: connect to http://{free}: Connection refused (os error 111)");
    assert_eq!(failure.to_string(), wanted);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_says_nothing_is_given_up() {
    let url = Fake::default().start();
    let failure = run(&url, &["cn", "get", "silent"]).await.unwrap_err();
    assert_eq!(failure.to_string(), format!("error: UNAVAILABLE: http://{url} did not answer within 15 s"));
}

#[tokio::test]
async fn labels_are_sent_as_one_change() {
    let fake = Fake::default();
    let url = fake.start();
    let answer =
        run(&url, &["cn", "label", "cn-1", "workload=ap", "workload=tp", "zone-", "tier="]).await.unwrap();
    assert_eq!(answer.words, "cn/cn-1 carries -");
    let [request] = &fake.labelled.lock()[..] else { panic!("one call was expected") };
    let json = shunt_proto::json::to_value(request);
    assert_eq!(json["set"], json!({ "workload": ["ap", "tp"], "tier": [] }));
    assert_eq!(json["remove"], json!(["zone"]));
}

#[tokio::test]
async fn a_cn_is_registered_as_it_was_described() {
    let fake = Fake::default();
    let arguments = ["cn", "register", "cn-4", "h:1", "--group", "tp", "--label", "a=b", "--label", "a=c"];
    let answer = run(&fake.start(), &arguments).await.unwrap();
    assert_eq!(answer.words, "cn/cn-4 registered");
    let created = shunt_proto::json::to_value(&fake.created.lock()[0]);
    assert_eq!(created["ownLabels"], json!({ "a": ["b", "c"] }));
    assert_eq!(
        (&created["address"], &created["group"], &created["weight"]),
        (&json!("h:1"), &json!("tp"), &json!(100))
    );
}

#[tokio::test]
async fn a_session_list_says_who_did_not_answer() {
    let url = Fake::default().start();
    let answer = run(&url, &["session", "list"]).await.unwrap();
    assert_eq!(answer.notes, ["data planes that did not answer: dp-2"]);
    let json = answer.json.unwrap();
    assert_eq!(json["unanswered"], json!(["dp-2"]));
    let session = &json["sessions"][0];
    assert_eq!((&session["id"], &session["state"]), (&json!(1_073_741_824), &json!("idle")));
    assert_eq!(session["pinned"], json!(["temporary table"]));
    let absent = |field: &str| session.get(field).is_some_and(serde_json::Value::is_null);
    assert!(absent("idle") && absent("lastMove"), "{session}");
    assert!(answer.words.contains("a\\u{1b}[2J"), "{}", answer.words);
    let killed = run(&url, &["session", "kill", "1073741824"]).await.unwrap();
    assert_eq!((killed.words.as_str(), killed.json), ("session/1073741824 killed", None));
}

#[tokio::test]
async fn a_move_says_what_came_of_it_and_is_a_refusal_where_the_session_stays() {
    let url = Fake::default().start();
    let moved = run(&url, &["session", "move", "1073741824", "--to", "cn-2"]).await.unwrap();
    assert_eq!(moved.words, "session/1073741824 moved from cn-1 to cn-2, pause 2ms");
    assert!(!moved.is_refusal);
    let json = moved.json.unwrap();
    let shown = json!({
        "outcome": "moved", "from": "cn-1", "to": "cn-2", "pause": json["pause"], "reasons": []
    });
    assert_eq!(json, shown);
    assert!(json["pause"].as_str().is_some_and(|pause| pause.starts_with("0.0025")), "{json}");
    let stays = run(&url, &["session", "move", "1073741824"]).await.unwrap();
    assert_eq!(stays.words, "session/1073741824 stays on cn-1: pinned: user lock");
    assert!(stays.is_refusal);
    assert_eq!(stays.json.map(|json| json["pause"].clone()), Some(serde_json::Value::Null));
}

#[tokio::test]
async fn what_concerns_the_cluster_reads_in_words() {
    let url = Fake::default().start();
    let explained = run(&url, &["explain", "--tenant", "acme", "--label", "zone=b"]).await.unwrap();
    let wanted = "It is refused.

Tenant:               acme
Labels:               zone=b
Match:                -
The client is told:   ERROR 1105 (08004): no CN carries …

CN     TIER   CHOSEN   STATE         HEALTH    SESSIONS   WHY NOT
cn-1   -      no       unspecified   unknown   0          lacks the label zone";
    assert_eq!(explained.words, wanted);
    let status = run(&url, &["status"]).await.unwrap();
    assert!(status.words.contains("Store:      embedded\n"), "{}", status.words);
    let policy = run(&url, &["policy", "get"]).await.unwrap();
    assert!(policy.words.contains("migrate.settle_after:         50ms\n"), "{}", policy.words);
    let data_planes = run(&url, &["data-plane", "list"]).await.unwrap();
    assert_eq!(
        (data_planes.words.as_str(), data_planes.json),
        ("No data planes", Some(json!({ "dataPlanes": [] })))
    );
}

#[tokio::test]
async fn a_data_plane_is_forgotten_by_its_id() {
    let answer = run(&Fake::default().start(), &["data-plane", "forget", "dp-1"]).await.unwrap();
    assert_eq!((answer.words.as_str(), answer.json), ("data-plane/dp-1 forgotten", None));
}

/// A file of that content; kept as long as the value.
fn file(content: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(content.as_bytes()).unwrap();
    file
}

#[tokio::test]
async fn a_program_s_configuration_can_be_applied() {
    let fake = Fake::default();
    let url = fake.start();
    let file =
        file("mysql: { listen: x }\ngroups: [ { name: tp, cns: [ { name: cn-1, address: h:1 } ] } ]\n");
    let path = file.path().to_str().unwrap();
    assert_eq!(run(&url, &["apply", "-f", path, "--prune"]).await.unwrap().words, "cn/cn-1 created");
    assert_eq!(run(&url, &["apply", "-f", path]).await.unwrap().words, "nothing to change");
    let applied = fake.applied.lock();
    assert_eq!((applied[0].prune, applied[1].prune), (true, false));
    assert_eq!(applied[0].groups[0].cns[0].address, "h:1");
}

#[tokio::test]
async fn a_bad_file_is_refused_line_by_line_and_nothing_is_sent() {
    let fake = Fake::default();
    let url = fake.start();
    let bad = file("group: []\ntenants:\n- { name: acme, allow: nowhere }\n");
    let path = bad.path().to_str().unwrap();
    let failure = run(&url, &["apply", "-f", path]).await.unwrap_err().to_string();
    let wanted = format!(
        "{path}:1:1: group: unknown key (did you mean groups?)\n\
         {path}:3:24: tenants[0].allow: \"nowhere\" is not an address or a network"
    );
    assert_eq!(failure, wanted);
    let nothing = file("mysql: {}\n");
    let path = nothing.path().to_str().unwrap();
    let failure = run(&url, &["apply", "-f", path]).await.unwrap_err().to_string();
    assert_eq!(failure, format!("{path}:1:1: names no groups, tenants or policy: nothing to apply"));
    let failure = run(&url, &["apply", "-f", "/nowhere"]).await.unwrap_err().to_string();
    assert_eq!(failure, "/nowhere:1:1: No such file or directory (os error 2)");
    assert!(fake.applied.lock().is_empty());
}

#[tokio::test]
async fn a_rebalance_that_not_all_answered_is_none() {
    let url = Fake::default().start();
    let planned = run(&url, &["rebalance", "--dry-run"]).await.unwrap();
    assert!(!planned.is_refusal && planned.notes.is_empty());
    assert_eq!(planned.json.unwrap()["dryRun"], json!(true));
    let answer = run(&url, &["rebalance"]).await.unwrap();
    assert!(answer.is_refusal && answer.notes[0].contains("dp-2"), "{:?}", answer.notes);
    assert_eq!(answer.json.unwrap()["unanswered"], json!(["dp-2"]));
}
