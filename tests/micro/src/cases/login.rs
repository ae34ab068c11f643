//! What a login costs before a CN is picked: greeting, the client's answer, its name, its password.

use super::data_plane::session::login::user::Names;
use super::{Case, count, fleet};
use mysql_wire::capability::{CLIENT_MYSQL, CONNECT_WITH_DB, OFFERED};
use mysql_wire::greeting::Greeting;
use mysql_wire::login::{Attributes, First, Login};
use mysql_wire::native::{self, Stage1};

pub(super) const CASES: &[Case] = &[
    Case { name: "login/greeting-write", about: "the greeting, to its bytes", run: greeting },
    Case { name: "login/response-read", about: "HandshakeResponse41 with 8 attributes", run: response },
    Case { name: "login/response-write", about: "the same, for the CN", run: response_write },
    Case { name: "login/names", about: "tenant:user?label and 8 attributes", run: names },
    Case { name: "login/password", about: "mysql_native_password, checked and recovered", run: password },
    Case { name: "login/password-answer", about: "mysql_native_password, answered to a CN", run: answer },
];

const SALT: [u8; 20] = *b"abcdefghijklmnopqrst";

fn attributes() -> Attributes {
    [
        ("_client_name", "libmariadb"),
        ("_client_version", "3.3.14"),
        ("_os", "Linux"),
        ("_pid", "24611"),
        ("_platform", "x86_64"),
        ("_server_host", "shunt.example.org"),
        ("program_name", "inventory"),
        ("tier", "gold"),
    ]
    .map(|(key, value)| (key.into(), value.into()))
    .into()
}

fn said_by_client() -> Login {
    Login {
        capabilities: OFFERED & !CLIENT_MYSQL | CONNECT_WITH_DB,
        max_packet: 1 << 24,
        collation: 45,
        user: b"acme:inventory?workload=tp".to_vec(),
        auth: Stage1::of(b"secret").answer(&SALT).to_vec(),
        database: Some(b"warehouse".to_vec()),
        plugin: Some(native::PLUGIN.to_vec()),
        attributes: attributes(),
    }
}

fn greeting() {
    let mut greeting = Greeting {
        version: b"5.5.5-10.11.14-MariaDB-0+deb12u2".to_vec(),
        connection_id: 1 << 30,
        salt: native::salt(SALT),
        capabilities: OFFERED,
        collation: 45,
        status: 2,
        plugin: native::PLUGIN.to_vec(),
    };
    let written = count(&mut greeting, |_| (), |greeting, ()| greeting.write());
    assert_eq!(Greeting::read(&written), Ok(greeting));
}

fn response() {
    let payload = said_by_client().write();
    let read = count(&mut (), |_| &payload[..], |_, payload| First::read(payload));
    assert_eq!(read, Ok(First::Login(Box::new(said_by_client()))));
}

fn response_write() {
    let written = count(&mut said_by_client(), |_| (), |login, ()| login.write());
    assert!(First::read(&written).is_ok());
}

fn names() {
    let login = said_by_client();
    let mut snapshot = fleet::snapshot(10);
    let read = |snapshot: &mut shunt_proto::snapshot::RoutingSnapshot, ()| {
        Names::read(&login.user, &login.attributes, |key| snapshot.is_label_key(key))
    };
    let names = count(&mut snapshot, |_| (), read).expect("the name is one");
    let asked = fleet::labels(&[("workload", "tp"), ("tier", "gold")]);
    assert_eq!((names.tenant.as_str(), &names.user[..], names.labels), ("acme", &b"inventory"[..], asked));
}

fn password() {
    let stage1 = Stage1::of(b"secret");
    let mut stored = stage1.stage2();
    let answer = stage1.answer(&SALT);
    let recovered = count(&mut stored, |_| answer, |stored, answer| stored.recover(&SALT, &answer));
    assert_eq!(recovered, Some(stage1));
}

fn answer() {
    let mut stage1 = Stage1::of(b"secret");
    let answer = count(&mut stage1, |_| SALT, |stage1, salt| stage1.answer(&salt));
    assert_eq!(stage1.stage2().recover(&SALT, &answer), Some(stage1));
}
