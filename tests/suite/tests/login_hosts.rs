//! The addresses that clients, data planes and CNs have, and what CNs make of them: blocked hosts, accounts of one host,
//! PROXY headers, loopback.

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::json;
use shunt_harness::{ErrPacket, Login, MariaDb, Raw, Setup, Shunt, command, eventually, free_port, mariadb};
use std::io;
use std::net::{IpAddr, SocketAddr};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;

/// The least rights of the service account.
const SERVICE: &[&str] = &[
    "CREATE USER shunt@'%' IDENTIFIED BY 'secret'",
    "GRANT PROCESS, CONNECTION ADMIN ON *.* TO shunt@'%'",
    "GRANT SELECT ON mysql.global_priv TO shunt@'%'",
];

/// A host of its own between a data plane and a CN, which sees every connection come from there. What one end closes
/// the other sees closed.
struct Host {
    address: SocketAddr,
    // Ends with the value.
    _tasks: JoinSet<()>,
}

impl Host {
    async fn before(cn: SocketAddr, own: [u8; 4]) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut links = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                while links.try_join_next().is_some() {}
                // Whatever ends a link, both its ends see it.
                links.spawn(async move { drop(link(client, cn, own).await) });
            }
        });
        Ok(Self { address, _tasks: tasks })
    }
}

async fn link(mut client: TcpStream, cn: SocketAddr, own: [u8; 4]) -> io::Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((own, 0)))?;
    let mut server = socket.connect(cn).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    tokio::io::copy_bidirectional(&mut client, &mut server).await?;
    server.shutdown().await
}

/// The refusal of a login.
async fn refusal(address: SocketAddr, login: &Login) -> Result<ErrPacket> {
    match Raw::login(address, login).await {
        Ok(_) => bail!("{login:?} was let in"),
        Err(error) => error.downcast::<ErrPacket>(),
    }
}

// === max_connect_errors ===

const HOST: [u8; 4] = [127, 0, 0, 5];

/// A CN that blocks a host after three connections that broke off inside the handshake.
async fn strict_cn() -> Result<MariaDb> {
    let options = mariadb::Options::new()
        .arg("--max-connect-errors=3")
        // Hosts are counted only where names are looked up.
        .arg("--skip-name-resolve=0")
        .arg("--performance-schema=1")
        .arg("--init-connect=DO 1");
    let cn = options.start().await?;
    cn.run(SERVICE).await?;
    cn.run(&["CREATE USER other@'%' IDENTIFIED BY 'other'"]).await?;
    Ok(cn)
}

/// How many connections of the host broke off inside the handshake, ever.
async fn broken_off(cn: &MariaDb) -> Result<u64> {
    let mut root = cn.root().await?;
    // Every handshake that still goes on is waited for.
    eventually("the handshakes", async || {
        let open = "SELECT COUNT(*) FROM information_schema.processlist WHERE user = 'unauthenticated user'";
        let open = root.value(open).await?;
        ensure!(open == "0", "{open} go on");
        Ok(())
    })
    .await;
    let sql = "SELECT IFNULL(SUM(COUNT_HANDSHAKE_ERRORS), 0) FROM performance_schema.host_cache WHERE ip = '127.0.0.5'";
    Ok(root.value(sql).await?.parse()?)
}

/// Four connections that break off are too many: the tests below would see it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_of_the_cn_itself_is_blocked_soon() -> Result<()> {
    let cn = strict_cn().await?;
    let host = Host::before(cn.address(), HOST).await?;
    let login = Login::user("app").password("app");
    eventually("the host is blocked", async || match Raw::connect(host.address, &login).await {
        Ok(greeted) => {
            greeted.abort()?;
            bail!("it is greeted")
        }
        Err(error) => {
            ensure!(error.downcast::<ErrPacket>()?.code == 1129, "another error");
            Ok(())
        }
    })
    .await;
    ensure!(broken_off(&cn).await? >= 3);
    Ok(())
}

/// A client's packet, as bytes.
fn packet(sequence: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_le_bytes().to_vec();
    bytes[3] = sequence;
    bytes.extend_from_slice(payload);
    bytes
}

/// Leaves with a reset, or with a FIN.
fn vanish(client: Raw, with_reset: bool) -> Result<()> {
    if with_reset { client.abort() } else { Ok(()) }
}

/// Sends the first `n` bytes of a login and leaves. False where the login has no more than these.
async fn leave_in_login(at: SocketAddr, login: &Login, n: usize) -> Result<bool> {
    let mut client = Raw::connect(at, login).await?;
    let bytes = packet(1, &login.response(&client.greeting));
    client.send_bytes(&bytes[..n.min(bytes.len())]).await?;
    vanish(client, n.is_multiple_of(2))?;
    Ok(n < bytes.len())
}

/// Is asked for its password once more, sends the first `n` bytes of the answer and leaves.
async fn leave_in_answer(at: SocketAddr, login: &Login, n: usize) -> Result<()> {
    let mut client = Raw::connect(at, login).await?;
    let bytes = packet(1, &login.response(&client.greeting));
    client.send_bytes(&bytes).await?;
    let switch = client.read_packet().await?;
    ensure!(switch.payload.first() == Some(&0xFE), "{:02x?}", switch.payload);
    client.send_bytes(&packet(switch.sequence + 1, &[7; 20])[..n]).await?;
    vanish(client, n.is_multiple_of(2))
}

/// Logs in, asks for another user, and leaves when it is asked for the password: before its answer's byte `n`.
async fn leave_in_change(at: SocketAddr, n: usize) -> Result<()> {
    let mut client = Raw::login(at, &Login::user("app").password("app")).await?;
    let other = Login::user("other").password("other");
    client.send(&other.change_user(client.caps, client.salt())).await?;
    let switch = client.read_packet().await?;
    ensure!(switch.payload.first() == Some(&0xFE), "{:02x?}", switch.payload);
    client.send_bytes(&packet(switch.sequence + 1, &[7; 20])[..n]).await?;
    vanish(client, n.is_multiple_of(2))
}

/// Shunt in front of a strict CN, on a host of its own.
struct Strict {
    cn: MariaDb,
    shunt: Shunt,
    host: Host,
}

impl Strict {
    async fn start(account: bool) -> Result<Self> {
        let cn = strict_cn().await?;
        let host = Host::before(cn.address(), HOST).await?;
        let setup = Setup::new().cn("cn-1", host.address).set("limits.login", "4s");
        let setup = if account { setup.cn_account("shunt", "secret") } else { setup };
        Ok(Self { cn, shunt: setup.standalone().await?, host })
    }

    /// No handshake broke off, and the host is let in.
    async fn is_welcome(&self, after: &str) -> Result<()> {
        let login = Login::user("app").password("app");
        let mut session = Raw::login(self.shunt.address(), &login).await.with_context(|| after.to_owned())?;
        assert_eq!(session.value("SELECT USER()").await?, "app@127.0.0.5", "after {after}");
        session.quit().await?;
        Raw::login(self.host.address, &login).await.with_context(|| after.to_owned())?.quit().await?;
        assert_eq!(broken_off(&self.cn).await?, 0, "after {after}");
        Ok(())
    }
}

async fn storms(account: bool) -> Result<()> {
    let strict = Strict::start(account).await?;
    let at = strict.shunt.address();
    strict.is_welcome("the start").await?;

    let right = Login::user("app").password("app");
    let wrong = right.clone().password("wrong");
    let asked = right.clone().plugin("caching_sha2_password");
    for _ in 0..300 {
        assert_eq!(refusal(at, &wrong).await?.code, 1045);
    }
    strict.is_welcome("wrong passwords").await?;

    for login in [&right, &wrong, &asked] {
        let mut n = 0;
        while leave_in_login(at, login, n).await? {
            n += 1;
        }
        ensure!(n > 60, "a login has {n} bytes");
        // And right behind its last byte, while the data plane is busy with the CN.
        for _ in 0..20 {
            leave_in_login(at, login, usize::MAX - 1).await?;
            leave_in_login(at, login, usize::MAX).await?;
        }
    }
    strict.is_welcome("clients that left in their logins").await?;

    for n in 0..=24 {
        leave_in_answer(at, &asked, n).await?;
        leave_in_answer(at, &wrong, n).await.ok(); // Without an account every login is asked.
        leave_in_change(at, n).await?;
    }
    strict.is_welcome("clients that left when they were asked").await?;

    // Clients that are asked and say nothing, until the login has taken too long.
    let mut silent = Vec::new();
    for _ in 0..10 {
        let mut client = Raw::connect(at, &asked).await?;
        let bytes = packet(1, &asked.response(&client.greeting));
        client.send_bytes(&bytes).await?;
        silent.push(client);
    }
    for client in &mut silent {
        client.read_packet().await?;
        let told = ErrPacket::decode(&client.read_packet().await?.payload)?;
        assert_eq!(told.code, 1159, "{told}");
    }
    strict.is_welcome("clients that said nothing").await?;

    // Sessions that the CN ends: each makes the data plane look whether the CN lives.
    let mut root = strict.cn.root().await?;
    for _ in 0..20 {
        let mut session = Raw::login(at, &right).await?;
        let own = session.value("SELECT CONNECTION_ID()").await?;
        root.run(format!("KILL {own}")).await?;
        session.closed().await?;
    }
    strict.is_welcome("sessions that the CN ended").await?;
    strict.hangs().await
}

impl Strict {
    /// The CN stands still in the middle of logins, and goes on.
    async fn hangs(&self) -> Result<()> {
        let login = Login::user("app").password("app");
        self.cn.freeze().await?;
        let mut logins = JoinSet::new();
        for _ in 0..20 {
            let (at, login) = (self.shunt.address(), login.clone());
            logins.spawn(async move { refusal(at, &login).await });
        }
        while let Some(refused) = logins.join_next().await {
            let refused = refused??;
            assert_eq!((refused.code, refused.sqlstate.as_str()), (1105, "08004"), "{refused}");
        }
        self.cn.thaw()?;
        eventually("the CN is used again", async || {
            Raw::login(self.shunt.address(), &login).await?.quit().await
        })
        .await;
        self.is_welcome("a CN that hung").await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_client_gets_the_data_plane_s_host_blocked() -> Result<()> {
    storms(true).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nor_where_every_login_is_relayed() -> Result<()> {
    storms(false).await
}

// === PROXY ===

const CLIENT: [u8; 4] = [127, 0, 0, 9];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_proxy_v2_a_cn_sees_the_client_s_address() -> Result<()> {
    let cn = mariadb::Options::new().arg("--proxy-protocol-networks=127.0.0.0/8").start().await?;
    cn.run(SERVICE).await?;
    cn.account("here", "127.0.0.9", "one").await?;
    for account in [true, false] {
        let setup = Setup::new().cn("cn-1", cn.address()).set("cn_proxy_protocol", "v2");
        let setup = if account { setup.cn_account("shunt", "secret") } else { setup };
        let shunt = setup.standalone().await?;
        let login = Login::user("here").password("one");
        // Where the account is, and where it is not: in the CN's own words.
        let there = login.clone().from(CLIENT);
        let mut session = Raw::login(shunt.address(), &there).await?;
        assert_eq!(session.value("SELECT USER()").await?, "here@127.0.0.9");
        assert_eq!(session.value("SELECT CURRENT_USER()").await?, "here@127.0.0.9");
        let own = session.value("SELECT CONNECTION_ID()").await?;
        let sees = format!("SELECT host FROM information_schema.processlist WHERE id = {own}");
        let client = session.local_addr()?.to_string();
        assert_eq!(cn.root().await?.value(&sees).await?, client);
        assert_eq!(refusal(shunt.address(), &login).await?, refusal(cn.address(), &login).await?);
        let wrong = there.clone().password("two");
        assert_eq!(refusal(shunt.address(), &wrong).await?, refusal(cn.address(), &wrong).await?);
        let relayed = there.clone().plugin("caching_sha2_password");
        let mut relayed = Raw::login(shunt.address(), &relayed).await?;
        assert_eq!(relayed.value("SELECT USER()").await?, "here@127.0.0.9");

        // A statement whose client is gone is found under the address that the CN sees.
        if account {
            let info = "SELECT SLEEP(1000), 'proxied'";
            session.send(&command::query(info)).await?;
            let runs = format!("SELECT COUNT(*) FROM information_schema.processlist WHERE info = \"{info}\"");
            let mut root = cn.root().await?;
            for (count, what) in [("1", "it runs"), ("0", "it is killed")] {
                eventually(what, async || {
                    let now = root.value(&runs).await?;
                    ensure!(now == count, "{now}");
                    Ok(())
                })
                .await;
                if count == "1" {
                    session.set_patience(std::time::Duration::from_millis(1));
                    let left = std::mem::replace(&mut session, Raw::login(shunt.address(), &there).await?);
                    left.abort()?;
                }
            }
        }
    }
    Ok(())
}

// === loopback ===

/// Shunt on all addresses, in front of a CN on loopback.
fn open(cn: &MariaDb) -> Setup {
    let port = free_port();
    Setup::new()
        .cn("cn-1", cn.address())
        .cn_account("shunt", "secret")
        .set("mysql.listen", format!("0.0.0.0:{port}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cn_on_loopback_is_not_opened_to_the_world() -> Result<()> {
    let cn = mariadb::Options::new().arg("--proxy-protocol-networks=127.0.0.0/8").start().await?;
    cn.run(SERVICE).await?;
    let login = Login::user("app").password("app");
    let loopback = |shunt: &Shunt| SocketAddr::new(IpAddr::from([127, 0, 0, 1]), shunt.address().port());

    let mut refusing = open(&cn).standalone().await?;
    let told = refusal(loopback(&refusing), &login).await?;
    assert_eq!((told.code, told.sqlstate.as_str()), (1105, "08004"), "{told}");
    let shown = eventually("the reason", async || {
        let shown = refusing.ctl(&["cn", "get", "cn-1"]).await?;
        ensure!(shown["health"] == "down", "{shown}");
        Ok(shown["healthReason"].as_str().context("a reason")?.to_owned())
    })
    .await;
    for word in ["loopback", "cn_proxy_protocol: v2", "allow_loopback_cns: true"] {
        assert!(shown.contains(word), "{shown}");
        let log = refusing.plane("standalone").process()?.output();
        assert!(log.contains(word), "{log}");
    }
    drop(refusing);

    let proxied = open(&cn).set("cn_proxy_protocol", "v2").standalone().await?;
    Raw::login(loopback(&proxied), &login).await?.quit().await?;
    let allowed = open(&cn).set("mysql.allow_loopback_cns", json!(true)).standalone().await?;
    Raw::login(loopback(&allowed), &login).await?.quit().await?;
    Ok(())
}
