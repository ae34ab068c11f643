// MariaDB Connector/J and MySQL Connector/J as clients: see ../README.md for the steps.
// Run from its source: java -cp 'FOLDER/*' Client.java mariadb|mysql

import java.math.BigDecimal;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.sql.Types;
import java.util.ArrayList;
import java.util.List;
import java.util.Objects;
import java.util.Properties;

public class Client {
    static final String TEXT = "grüße, 東京 🐬";

    /** Which driver, and the options that make it prepare on the server and read local files. */
    enum Driver {
        mariadb("mariadb-connector-j", "jdbc:mariadb",
            "sslMode=disable&useServerPrepStmts=true&allowLocalInfile=true&connectTimeout=20000"),
        mysql("mysql-connector-j", "jdbc:mysql",
            "sslMode=DISABLED&useServerPrepStmts=true&allowLoadLocalInfile=true&connectTimeout=20000"
                + "&allowPublicKeyRetrieval=true&useCursorFetch=false");

        final String client;
        final String scheme;
        final String options;

        Driver(String client, String scheme, String options) {
            this.client = client;
            this.scheme = scheme;
            this.options = options;
        }
    }

    final Driver driver;
    final String table;
    final List<String> failed = new ArrayList<>();
    int checks = 0;

    Client(Driver driver) {
        this.driver = driver;
        this.table = "t_java_" + driver + "_" + ProcessHandle.current().pid();
    }

    void equal(String what, Object got, Object want) {
        checks++;
        if (!Objects.equals(got, want)) failed.add(what + ": got " + brief(got) + ", not " + brief(want));
    }

    static String brief(Object value) {
        String text = String.valueOf(value);
        return text.length() > 120 ? text.substring(0, 120) : text;
    }

    Connection connect(String more) throws SQLException {
        String url = String.format("%s://%s:%s/%s?%s%s", driver.scheme, System.getenv("SHUNT_HOST"),
            System.getenv("SHUNT_PORT"), System.getenv("SHUNT_DB"), driver.options, more);
        Properties login = new Properties();
        login.setProperty("user", System.getenv("SHUNT_USER"));
        login.setProperty("password", System.getenv("SHUNT_PASSWORD"));
        return DriverManager.getConnection(url, login);
    }

    String one(Connection connection, String sql) throws SQLException {
        try (Statement statement = connection.createStatement(); ResultSet row = statement.executeQuery(sql)) {
            return row.next() ? row.getString(1) : "no row";
        }
    }

    void text(Connection connection) throws SQLException {
        String sql = "SELECT 42, -9223372036854775808, 1.50, '" + TEXT + "', NULL, DATE '2024-02-29', "
            + "TIMESTAMP '2024-02-29 12:34:56', CAST(x'00ff10' AS BINARY), REPEAT('ab', 200)";
        try (Statement statement = connection.createStatement(); ResultSet row = statement.executeQuery(sql)) {
            values(row, "text");
        }
        equal("text: no rows", one(connection, "SELECT 1 FROM DUAL WHERE 1 = 0"), "no row");
    }

    void values(ResultSet row, String step) throws SQLException {
        equal(step + ": a row", row.next(), true);
        equal(step + ": integer", row.getInt(1), 42);
        equal(step + ": smallest integer", row.getLong(2), Long.MIN_VALUE);
        equal(step + ": decimal", row.getBigDecimal(3), new BigDecimal("1.50"));
        equal(step + ": words", row.getString(4), TEXT);
        equal(step + ": null", row.getObject(5), null);
        equal(step + ": date", row.getDate(6).toString(), "2024-02-29");
        equal(step + ": time", row.getTimestamp(7).toString(), "2024-02-29 12:34:56.0");
        equal(step + ": bytes", new String(row.getBytes(8), StandardCharsets.ISO_8859_1), "\0\u00ff\u0010");
        equal(step + ": 400 bytes", row.getString(9), "ab".repeat(200));
        equal(step + ": no second row", row.next(), false);
    }

    void prepared(Connection connection) throws SQLException {
        String sql = "SELECT ? + 1, CONCAT(?, '!'), ?";
        long[] numbers = {1, -5, 1L << 40};
        String[] words = {TEXT, "", "x".repeat(300)};
        try (PreparedStatement statement = connection.prepareStatement(sql)) {
            for (int i = 0; i < numbers.length; i++) {
                statement.setLong(1, numbers[i]);
                statement.setString(2, words[i]);
                statement.setNull(3, Types.VARCHAR);
                try (ResultSet row = statement.executeQuery()) {
                    equal("prepared: a row", row.next(), true);
                    equal("prepared: number", row.getLong(1), numbers[i] + 1);
                    equal("prepared: words", row.getString(2), words[i] + "!");
                    equal("prepared: null", row.getString(3), null);
                }
            }
        }
        String typed = "SELECT 42, -9223372036854775808, 1.50, '" + TEXT + "', NULL, DATE '2024-02-29', "
            + "TIMESTAMP '2024-02-29 12:34:56', CAST(x'00ff10' AS BINARY), REPEAT('ab', 200)";
        try (PreparedStatement statement = connection.prepareStatement(typed);
                ResultSet row = statement.executeQuery()) {
            values(row, "prepared");
        }
        // That the statements above were the server's is what the server itself counted.
        long count = Long.parseLong(status(connection, "Com_stmt_prepare"));
        equal("prepared: on the server (" + count + ")", count >= 2, true);
        batch(connection);
    }

    String status(Connection connection, String name) throws SQLException {
        try (Statement statement = connection.createStatement();
                ResultSet row = statement.executeQuery("SHOW SESSION STATUS LIKE '" + name + "'")) {
            return row.next() ? row.getString(2) : "0";
        }
    }

    /** Many rows by one statement: MariaDB's driver uses its server's bulk command where it may. */
    void batch(Connection connection) throws SQLException {
        try (PreparedStatement statement = connection.prepareStatement("INSERT INTO " + table + " VALUES (?, ?)")) {
            for (int i = 1; i <= 500; i++) {
                statement.setInt(1, i);
                statement.setString(2, "batch " + i);
                statement.addBatch();
            }
            equal("batch: results", statement.executeBatch().length, 500);
        }
        equal("batch: sum", one(connection, "SELECT SUM(id) FROM " + table), "125250");
        try (Statement statement = connection.createStatement()) {
            equal("batch: deleted", statement.executeUpdate("DELETE FROM " + table), 500);
        }
    }

    void transaction(Connection connection) throws SQLException {
        String count = "SELECT COUNT(*) FROM " + table;
        connection.setAutoCommit(false);
        try (Statement statement = connection.createStatement()) {
            statement.executeUpdate("INSERT INTO " + table + " VALUES (1, 'rolled back')");
            equal("transaction: sees its own", one(connection, count), "1");
            connection.rollback();
            equal("transaction: rolled back", one(connection, count), "0");
            connection.commit();
            int affected = statement.executeUpdate("INSERT INTO " + table + " VALUES (1, 'a'), (2, 'b')");
            equal("transaction: affected", affected, 2);
            connection.commit();
        }
        connection.setAutoCommit(true);
        equal("transaction: committed", one(connection, "SELECT GROUP_CONCAT(name ORDER BY id) FROM " + table), "a,b");
    }

    void error(Connection connection) throws SQLException {
        raises(connection, "SELEC 1", 1064, "42000", "You have an error in your SQL syntax");
        raises(connection, "INSERT INTO " + table + " VALUES (1, 'again')", 1062, "23000", "Duplicate entry '1' for key");
        raises(connection, "SELECT * FROM no_such_table", 1146, "42S02", "no_such_table' doesn't exist");
        // What Shunt says of a CN that was lost.
        String signal = "SIGNAL SQLSTATE '%s' SET MYSQL_ERRNO = %d, MESSAGE_TEXT = '%s'";
        raises(connection, signal.formatted("40001", 1213, "rolled back"), 1213, "40001", "rolled back");
        raises(connection, signal.formatted("HY000", 1180, "is unknown"), 1180, "HY000", "is unknown");
    }

    void raises(Connection connection, String sql, int code, String state, String words) throws SQLException {
        String id = one(connection, "SELECT CONNECTION_ID()");
        for (boolean prepare : new boolean[] {false, true}) {
            String what = "error " + code + (prepare ? " prepared" : "");
            try {
                if (prepare) {
                    try (PreparedStatement statement = connection.prepareStatement(sql)) {
                        statement.execute();
                    }
                } else {
                    try (Statement statement = connection.createStatement()) {
                        statement.execute(sql);
                    }
                }
                equal(what + ": raised", false, true);
            } catch (SQLException raised) {
                equal(what + ": code", raised.getErrorCode(), code);
                equal(what + ": state", raised.getSQLState(), state);
                equal(what + ": message " + raised.getMessage(), raised.getMessage().contains(words), true);
            }
            equal(what + ": lives on", one(connection, "SELECT CONNECTION_ID()"), id);
            equal(what + ": is no lost connection", connection.isValid(5) && !connection.isClosed(), true);
        }
    }

    void big(Connection connection) throws SQLException {
        int part = 17 * 65536;
        String row17 = "SELECT REPEAT('0123456789abcdef', " + part + ")";
        equal("big: row", one(connection, row17).equals("0123456789abcdef".repeat(part)), true);
        String many = "SELECT seq, REPEAT(CHAR(97 + seq % 26 USING utf8mb4), 500) FROM seq_1_to_10000 ORDER BY seq";
        try (Statement statement = connection.createStatement(); ResultSet rows = statement.executeQuery(many)) {
            equal("big: every row", goodRows(rows), 10000);
        }
        try (PreparedStatement statement = connection.prepareStatement(many); ResultSet rows = statement.executeQuery()) {
            equal("big: every row prepared", goodRows(rows), 10000);
        }
        fetched(many);
    }

    /** The same in portions: a cursor on the server (MySQL's), or a stream that is read as it comes. */
    void fetched(String many) throws SQLException {
        String more = driver == Driver.mysql ? "&useCursorFetch=true" : "";
        try (Connection connection = connect(more);
                PreparedStatement statement = connection.prepareStatement(many)) {
            statement.setFetchSize(700);
            try (ResultSet rows = statement.executeQuery()) {
                equal("big: every row in portions", goodRows(rows), 10000);
            }
            equal("big: after the portions", one(connection, "SELECT 'alive'"), "alive");
        }
    }

    int goodRows(ResultSet rows) throws SQLException {
        int good = 0;
        for (int i = 1; rows.next(); i++) {
            String want = String.valueOf((char) (97 + i % 26)).repeat(500);
            if (rows.getInt(1) == i && rows.getString(2).equals(want)) good++;
        }
        return good;
    }

    void load(Connection connection) throws Exception {
        Path file = Files.createTempFile("shunt-", ".tsv");
        try (Statement statement = connection.createStatement()) {
            StringBuilder lines = new StringBuilder();
            for (int i = 1001; i <= 2000; i++) lines.append(i).append("\tname ").append(i).append('\n');
            Files.writeString(file, lines);
            int affected = statement.executeUpdate("LOAD DATA LOCAL INFILE '" + file + "' INTO TABLE " + table);
            equal("load: affected", affected, 1000);
        } finally {
            Files.delete(file);
        }
        String sql = "SELECT CONCAT_WS(' ', COUNT(*), SUM(id), MAX(name)) FROM " + table + " WHERE id > 1000";
        equal("load: count, sum, name", one(connection, sql), "1000 1500500 name 2000");
    }

    Connection reconnect(Connection connection) throws SQLException {
        try (Statement statement = connection.createStatement()) {
            statement.execute("SET @left_behind = 1");
        }
        String before = one(connection, "SELECT CONNECTION_ID()");
        connection.close();
        Connection again = connect("");
        equal("reconnect: another id", !before.equals(one(again, "SELECT CONNECTION_ID()")), true);
        equal("reconnect: no old variable", one(again, "SELECT @left_behind"), null);
        equal("reconnect: the data", one(again, "SELECT COUNT(*) FROM " + table), "1002");
        return again;
    }

    void run() throws Exception {
        Connection connection = connect("");
        try (Statement statement = connection.createStatement()) {
            statement.execute("CREATE TABLE " + table + " (id INT PRIMARY KEY, name VARCHAR(100))");
        }
        text(connection);
        prepared(connection);
        transaction(connection);
        error(connection);
        big(connection);
        load(connection);
        connection = reconnect(connection);
        try (Statement statement = connection.createStatement()) {
            statement.execute("DROP TABLE " + table);
        }
        connection.close();
    }

    static String quoted(String text) {
        return '"' + text.replace("\\", "\\\\").replace("\"", "\\\"").replaceAll("\\p{Cntrl}", " ") + '"';
    }

    public static void main(String[] arguments) {
        Client client = new Client(Driver.valueOf(arguments[0]));
        try {
            client.run();
        } catch (Exception unexpected) {
            client.failed.add(brief(unexpected));
        }
        List<String> failed = new ArrayList<>();
        for (String line : client.failed) failed.add(quoted(line));
        System.out.printf("{\"client\": \"%s\", \"checks\": %d, \"errors\": %d, \"failed\": [%s]}%n",
            client.driver.client, client.checks, failed.size(), String.join(", ", failed));
        System.exit(failed.isEmpty() ? 0 : 1);
    }
}
