import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonToken;
import java.io.IOException;

/**
 * A log record, as far as the query looks at it.
 *
 * Responsible for reading it from JSON, for the peers whose programs are Java code. Must never keep a field that the
 * query does not need.
 *
 * Jackson's streaming parser: no tree and no reflection, and no text is made of a field that is not looked at. This is
 * the fastest way to read JSON that such a program usually takes.
 */
public final class LogRecord {
    private static final JsonFactory FACTORY = new JsonFactory();

    /** Milliseconds since the epoch. */
    public long timestamp;
    /** Whose crash it is; null if the record is none. */
    public String crashedUser;

    /** Reads a record. */
    static LogRecord parse(byte[] json) throws IOException {
        LogRecord record = new LogRecord();
        String user = null;
        boolean contains = false;
        boolean severe = false;
        try (JsonParser parser = FACTORY.createParser(json)) {
            parser.nextToken();
            for (String field = parser.nextFieldName(); field != null; field = parser.nextFieldName()) {
                JsonToken value = parser.nextToken();
                switch (field) {
                    case "timestamp" -> record.timestamp = parser.getLongValue();
                    case "user_id" -> user = parser.getText();
                    case "content" -> contains = parser.getText().contains("crash");
                    case "severity" -> {
                        String severity = parser.getText();
                        severe = severity.equals("High") || severity.equals("Critical");
                    }
                    default -> {
                        if (value.isStructStart()) {
                            parser.skipChildren();
                        }
                    }
                }
            }
        }
        if (contains && severe) {
            record.crashedUser = user;
        }
        return record;
    }
}
