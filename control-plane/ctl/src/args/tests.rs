use super::*;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(line.split_whitespace()).and_then(Cli::checked)
}

#[test]
fn the_definition_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn every_command_of_the_contract_is_understood() {
    for line in [
        "shuntctl status",
        "shuntctl apply -f shunt.yaml",
        "shuntctl apply -f - --prune",
        "shuntctl cn list --group tp",
        "shuntctl cn get cn-1",
        "shuntctl cn drain cn-1 --wait --timeout 60s --on-timeout hold",
        "shuntctl cn undrain cn-1",
        "shuntctl session move 1073741824 --to cn-2",
        "shuntctl cn register cn-4 127.0.0.1:3306 --group tp --label a=b --label a=c --zone z --weight 50",
        "shuntctl cn register cn-4 --address [::1]:3306",
        "shuntctl cn label cn-1 workload=ap zone- tier=",
        "shuntctl cn delete cn-1 --force",
        "shuntctl group list",
        "shuntctl group get tp",
        "shuntctl group delete tp",
        "shuntctl tenant list",
        "shuntctl tenant get acme",
        "shuntctl tenant delete acme",
        "shuntctl policy get",
        "shuntctl data-plane list",
        "shuntctl data-plane forget dp-1",
        "shuntctl session list --cn cn-1 --tenant acme",
        "shuntctl session get 1073741824",
        "shuntctl session kill 1073741824 --query",
        "shuntctl explain --tenant acme --user app --label workload=ap --client ::1",
        "shuntctl explain",
        "shuntctl rebalance",
        "shuntctl rebalance --dry-run",
    ] {
        assert!(parse(line).is_ok(), "{line}: {}", parse(line).unwrap_err());
    }
}

#[test]
fn output_and_server_stand_before_or_after_the_command() {
    for line in [
        "shuntctl -o json --server http://h:1 cn list",
        "shuntctl cn -o json list --server http://h:1",
        "shuntctl cn list -o json --server=h:1/",
        "shuntctl --server h:1 cn list --output json",
    ] {
        let cli = parse(line).unwrap();
        assert_eq!((cli.output, cli.server.as_deref()), (Output::Json, Some("http://h:1")), "{line}");
    }
    assert_eq!(parse("shuntctl cn list").unwrap().output, Output::Table);
}

#[test]
fn wrong_arguments_have_exit_status_2_and_help_0() {
    for line in [
        "shuntctl",
        "shuntctl cn",
        "shuntctl cn drain",
        "shuntctl cn drain cn-1 --timeout never",
        "shuntctl cn drain cn-1 --on-timeout kill",
        "shuntctl cn undrain",
        "shuntctl session move",
        "shuntctl session move 1 --to",
        "shuntctl apply",
        "shuntctl cn label cn-1",
        "shuntctl cn label cn-1 workload",
        "shuntctl cn label cn-1 a=b a-",
        "shuntctl cn label cn-1 tenant=x",
        "shuntctl cn register cn-4",
        "shuntctl cn register cn-4 nowhere",
        "shuntctl cn register cn-4 h:1 --address h:1",
        "shuntctl cn register cn-4 h:1 --label a-",
        "shuntctl cn register cn-4 h:1 --weight 0",
        "shuntctl explain --label a=",
        "shuntctl explain --client localhost",
        "shuntctl session get -1",
        "shuntctl session kill 5000000000",
        "shuntctl -o yaml status",
        "shuntctl --server https://h:1 status",
        "shuntctl --server http://h status",
        "shuntctl --server ftp://h:1 status",
    ] {
        let error = parse(line).expect_err(line);
        assert_eq!(error.exit_code(), 2, "{line}");
    }
    for line in ["shuntctl --help", "shuntctl cn label --help", "shuntctl --version", "shuntctl cn --version"]
    {
        assert_eq!(parse(line).expect_err(line).exit_code(), 0, "{line}");
    }
}

#[test]
fn a_drain_that_somebody_waits_for_or_that_ends_sessions_has_a_time() {
    let time = |line: &str| match parse(line).unwrap().command {
        Command::Cn(Cn::Drain(drain)) => drain.timeout(),
        other => panic!("{other:?}"),
    };
    assert_eq!(time("shuntctl cn drain cn-1"), None);
    for line in ["shuntctl cn drain cn-1 --wait", "shuntctl cn drain cn-1 --on-timeout force"] {
        assert_eq!(time(line), Some(Duration::from_secs(60)), "{line}");
    }
    assert_eq!(time("shuntctl cn drain cn-1 --wait --timeout 5m"), Some(Duration::from_secs(300)));
}
