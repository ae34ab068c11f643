//! The real `grpcurl` against the control plane, with no files: what it needs of the API it asks the API for.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use shunt_harness::{Group, Setup, Shunt, eventually};
use std::path::{Path, PathBuf};
use std::process::Output;

/// The program, of this checkout or of the path. None where it is not installed and need not be.
fn grpcurl() -> Result<Option<PathBuf>> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.shunt/bin");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::iter::once(own)
        .chain(std::env::split_paths(&path))
        .map(|folder| folder.join("grpcurl"))
        .find(|program| program.is_file());
    let required = std::env::var_os("SHUNT_TEST_REQUIRE").is_some();
    ensure!(found.is_some() || !required, "grpcurl is not installed: deploy/local/install.sh tools");
    Ok(found)
}

struct Client {
    program: PathBuf,
    shunt: Shunt,
}

impl Client {
    /// A cluster with a group and a tenant, and no CN that answers.
    async fn start() -> Result<Option<Self>> {
        let Some(program) = grpcurl()? else { return Ok(None) };
        let group = Group::named("tp").label("workload", "tp").cn("cn-1", "127.0.0.1:1".parse()?);
        let shunt = Setup::new().group(group).tenant("acme", json!({})).standalone().await?;
        Ok(Some(Self { program, shunt }))
    }

    async fn run(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = tokio::process::Command::new(&self.program);
        command.args(["-plaintext", "-max-time", "20"]).args(arguments).kill_on_drop(true);
        command.output().await.context("grpcurl")
    }

    /// Calls a method; the answer, defaults included.
    async fn call(&self, method: &str, request: &Value) -> Result<Value> {
        let (address, request) = (self.shunt.api().to_string(), request.to_string());
        let output = self.run(&["-emit-defaults", "-d", &request, &address, method]).await?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{method} {request}: {stderr}");
        serde_json::from_slice(&output.stdout).with_context(|| format!("{method} {request}"))
    }

    /// A call that is refused: its status code, the reason of its one `ErrorInfo`, and all that was said.
    async fn refused(&self, method: &str, request: &Value) -> Result<(String, String, String)> {
        let (address, request) = (self.shunt.api().to_string(), request.to_string());
        let output = self.run(&["-format-error", "-d", &request, &address, method]).await?;
        ensure!(!output.status.success(), "{method} {request} was not refused");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let error: Value = serde_json::from_str(&said).with_context(|| said.clone())?;
        let infos: Vec<_> = error["details"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|detail| detail["@type"].as_str().is_some_and(|kind| kind.ends_with("rpc.ErrorInfo")))
            .collect();
        ensure!(infos.len() == 1 && infos[0]["domain"] == "shunt", "{said}");
        let code = error["code"].to_string();
        Ok((code, infos[0]["reason"].as_str().context("a reason")?.to_owned(), said))
    }

    /// What grpcurl prints for a command of its own, such as `list`.
    async fn text(&self, arguments: &[&str]) -> Result<String> {
        let address = self.shunt.api().to_string();
        let output = self.run(&[&[address.as_str()], arguments].concat()).await?;
        ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }
}

const NOT_FOUND: &str = "5";
const ALREADY_EXISTS: &str = "6";
const FAILED_PRECONDITION: &str = "9";
const ABORTED: &str = "10";
const INVALID_ARGUMENT: &str = "3";

#[tokio::test]
async fn the_api_describes_itself() -> Result<()> {
    let Some(client) = Client::start().await? else { return Ok(()) };
    let services = client.text(&["list"]).await?;
    for service in [
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
        "shunt.v1.ClusterService",
        "shunt.v1.CnService",
        "shunt.v1.GroupService",
        "shunt.v1.RoutingService",
        "shunt.v1.SessionService",
        "shunt.v1.TenantService",
    ] {
        ensure!(services.lines().any(|line| line == service), "{service} in {services}");
        // Each of them can be described to the last message.
        ensure!(client.text(&["describe", service]).await?.contains("rpc "), "{service}");
    }
    let methods = client.text(&["list", "shunt.v1.CnService"]).await?;
    assert_eq!(methods.lines().count(), 8, "{methods}");
    let message = client.text(&["describe", "shunt.v1.Cn"]).await?;
    ensure!(message.contains("string address = 2;") && message.contains("enum Health"), "{message}");
    Ok(())
}

/// Newer tools ask by v1, older ones by v1alpha: either alone tells all.
#[tokio::test]
async fn both_versions_of_reflection_answer() -> Result<()> {
    let Some(client) = Client::start().await? else { return Ok(()) };
    for version in ["v1", "v1alpha"] {
        let method = format!("grpc.reflection.{version}.ServerReflection/ServerReflectionInfo");
        let listed = client.call(&method, &json!({ "list_services": "" })).await?;
        let services = listed["listServicesResponse"]["service"].to_string();
        ensure!(services.contains("shunt.v1.CnService"), "{version}: {listed}");
        let asked = json!({ "file_containing_symbol": "shunt.v1.CnService" });
        let described = client.call(&method, &asked).await?;
        let files = described["fileDescriptorResponse"]["fileDescriptorProto"].as_array();
        ensure!(files.is_some_and(|files| !files.is_empty()), "{version}: {described}");
    }
    Ok(())
}

#[tokio::test]
async fn an_operator_needs_no_files() -> Result<()> {
    let Some(client) = Client::start().await? else { return Ok(()) };
    let health = client.call("grpc.health.v1.Health/Check", &json!({})).await?;
    assert_eq!(health["status"], "SERVING");
    let of_service = json!({ "service": "shunt.v1.CnService" });
    assert_eq!(client.call("grpc.health.v1.Health/Check", &of_service).await?["status"], "SERVING");

    let new = json!({ "cn": { "name": "cn-2", "address": "127.0.0.1:2", "group": "tp", "own_labels": { "rack": ["7"] } } });
    let cn = client.call("shunt.v1.CnService/CreateCn", &new).await?;
    assert_eq!((&cn["state"], &cn["weight"]), (&json!("working"), &json!(100)));
    assert_eq!(cn["labels"], json!({ "rack": ["7"], "workload": ["tp"] }));
    let label = json!({ "name": "cn-2", "set": { "workload": ["ap", "report"] }, "remove": ["rack"] });
    let cn = client.call("shunt.v1.CnService/LabelCn", &label).await?;
    assert_eq!(cn["labels"], json!({ "workload": ["ap", "report"] }));

    let page = client.call("shunt.v1.CnService/ListCns", &json!({ "page_size": 1 })).await?;
    assert_eq!(page["cns"][0]["name"], "cn-1");
    let token = &page["nextPageToken"];
    let page =
        client.call("shunt.v1.CnService/ListCns", &json!({ "page_size": 1, "page_token": token })).await?;
    assert_eq!((&page["cns"][0]["name"], &page["nextPageToken"]), (&json!("cn-2"), &json!("")));

    let asked = json!({ "tenant": "acme", "user": "app", "labels": { "workload": ["report"] } });
    let explained = client.call("shunt.v1.ClusterService/Explain", &asked).await?;
    let other = explained["candidates"].as_array().context("candidates")?.iter().find(|c| c["cn"] == "cn-1");
    ensure!(other.context("cn-1")?["reason"].as_str().is_some_and(|why| !why.is_empty()), "{explained}");
    let suspend =
        json!({ "tenant": { "name": "acme", "suspended": true }, "update_mask": { "paths": ["suspended"] } });
    let suspend = client.call("shunt.v1.TenantService/UpdateTenant", &suspend).await?;
    assert_eq!(suspend["suspended"], true);
    let status = client.call("shunt.v1.ClusterService/GetStatus", &json!({})).await?;
    assert_eq!((&status["cns"], &status["store"]), (&json!(2), &json!("embedded")));
    let sessions = client.call("shunt.v1.SessionService/ListSessions", &json!({})).await?;
    assert_eq!(sessions["sessions"], json!([]));
    client.call("shunt.v1.CnService/DeleteCn", &json!({ "name": "cn-2" })).await?;
    let (code, reason, said) = client.refused("shunt.v1.CnService/GetCn", &json!({ "name": "cn-2" })).await?;
    assert_eq!(code, NOT_FOUND, "{reason} {said}");
    Ok(())
}

/// Two who change the same thing: the second one is told, and nothing of the first one's change is lost.
#[tokio::test]
async fn an_etag_guards_against_a_lost_update() -> Result<()> {
    let Some(client) = Client::start().await? else { return Ok(()) };
    for (get, update, delete, wrap, change) in [
        ("CnService/GetCn", "CnService/UpdateCn", "CnService/DeleteCn", "cn", json!({ "zone": "b" })),
        (
            "GroupService/GetGroup",
            "GroupService/UpdateGroup",
            "GroupService/DeleteGroup",
            "group",
            json!({ "replicas": 3 }),
        ),
        (
            "TenantService/GetTenant",
            "TenantService/UpdateTenant",
            "TenantService/DeleteTenant",
            "tenant",
            json!({ "max_sessions": 9 }),
        ),
    ] {
        let method = |name: &str| format!("shunt.v1.{name}");
        let name = match wrap {
            "cn" => "cn-1",
            "group" => "tp",
            _ => "acme",
        };
        let read = client.call(&method(get), &json!({ "name": name })).await?;
        let etag = read["etag"].as_str().context("an etag")?.to_owned();
        let with = |etag: &str, change: &Value| {
            let mut object = change.clone();
            object["name"] = json!(name);
            object["etag"] = json!(etag);
            json!({ wrap: object })
        };
        let updated = client.call(&method(update), &with(&etag, &change)).await?;
        ensure!(updated["etag"] != etag.as_str(), "{updated}");
        let (code, reason, _) = client.refused(&method(update), &with(&etag, &change)).await?;
        assert_eq!((code.as_str(), reason.as_str()), (ABORTED, "ETAG_MISMATCH"), "{update}");
        let stale = json!({ "name": name, "etag": etag });
        let (code, reason, _) = client.refused(&method(delete), &stale).await?;
        assert_eq!((code.as_str(), reason.as_str()), (ABORTED, "ETAG_MISMATCH"), "{delete}");
        assert_eq!(client.call(&method(get), &json!({ "name": name })).await?["etag"], updated["etag"]);
    }
    let fresh = client.call("shunt.v1.TenantService/GetTenant", &json!({ "name": "acme" })).await?;
    let request = json!({ "name": "acme", "etag": fresh["etag"] });
    client.call("shunt.v1.TenantService/DeleteTenant", &request).await?;
    Ok(())
}

#[tokio::test]
async fn refusals_have_a_code_and_a_reason() -> Result<()> {
    let Some(client) = Client::start().await? else { return Ok(()) };
    let cn = |name: &str, address: &str| json!({ "cn": { "name": name, "address": address } });
    for (method, request, code, reason) in [
        ("CnService/CreateCn", cn("cn-1", "h:1"), ALREADY_EXISTS, "CN_EXISTS"),
        ("CnService/CreateCn", cn("cn-9", "127.0.0.1:1"), ALREADY_EXISTS, "ADDRESS_IN_USE"),
        ("CnService/CreateCn", cn("no name", "h:1"), INVALID_ARGUMENT, "INVALID"),
        ("CnService/CreateCn", cn("cn-9", "nowhere"), INVALID_ARGUMENT, "INVALID"),
        ("CnService/ListCns", json!({ "page_token": "made up" }), INVALID_ARGUMENT, "INVALID"),
        ("GroupService/DeleteGroup", json!({ "name": "tp" }), FAILED_PRECONDITION, "GROUP_HAS_CNS"),
        ("GroupService/GetGroup", json!({ "name": "nowhere" }), NOT_FOUND, "GROUP_NOT_FOUND"),
        ("SessionService/GetSession", json!({ "id": 7 }), NOT_FOUND, "SESSION_NOT_FOUND"),
        ("ClusterService/Explain", json!({ "client": "nowhere" }), INVALID_ARGUMENT, "INVALID"),
    ] {
        let (was, why, said) = client.refused(&format!("shunt.v1.{method}"), &request).await?;
        assert_eq!((was.as_str(), why.as_str()), (code, reason), "{method} {request}: {said}");
    }
    // A data plane that is connected is not forgotten.
    eventually("it is connected", async || {
        let planes = client.call("shunt.v1.ClusterService/ListDataPlanes", &json!({})).await?;
        ensure!(planes["dataPlanes"][0]["connected"] == true, "{planes}");
        let id = json!({ "id": planes["dataPlanes"][0]["id"] });
        let (code, _, _) = client.refused("shunt.v1.ClusterService/ForgetDataPlane", &id).await?;
        ensure!(code == FAILED_PRECONDITION, "{code}");
        anyhow::Ok(())
    })
    .await;
    Ok(())
}
