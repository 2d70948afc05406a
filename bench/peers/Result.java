import java.nio.charset.StandardCharsets;
import java.time.Instant;
import java.time.ZoneOffset;
import java.time.format.DateTimeFormatter;

/**
 * A result, as CrashMonitor writes it (docs/output.md).
 *
 * Responsible for key and value of a result's record, for the peers whose programs are Java code. Must never decide what
 * is a result.
 */
final class Result {
    static final long WINDOW_MS = 10_000;
    static final long ALLOWED_LATENESS_MS = 30_000;
    static final long THRESHOLD = 2;

    private static final DateTimeFormatter ISO =
            DateTimeFormatter.ofPattern("yyyy-MM-dd'T'HH:mm:ss.SSS'Z'").withZone(ZoneOffset.UTC);

    static String key(String user, long startMs) {
        return user + "|" + startMs;
    }

    /** The users of the load need no escapes. */
    static String value(String user, long startMs, long count) {
        long endMs = startMs + WINDOW_MS;
        return "{\"interval\":{\"start\":\"" + ISO.format(Instant.ofEpochMilli(startMs))
                + "\",\"end\":\"" + ISO.format(Instant.ofEpochMilli(endMs))
                + "\",\"start_ms\":" + startMs + ",\"end_ms\":" + endMs
                + "},\"user_id\":\"" + user + "\",\"crash_count\":" + count + ",\"mode\":\"update\"}";
    }

    static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    private Result() {}
}
