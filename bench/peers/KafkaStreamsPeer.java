import java.io.IOException;
import java.time.Duration;
import java.util.Properties;
import org.apache.kafka.common.errors.SerializationException;
import org.apache.kafka.common.serialization.Deserializer;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.KeyValue;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.kstream.TimeWindows;
import org.apache.kafka.streams.state.Stores;

/**
 * The query in Kafka Streams.
 *
 * Responsible for the job and for settings under which it does its best. Must never write a result outside of a
 * transaction.
 *
 * The settings, and why:
 * - exactly_once_v2 and two threads: what the worker promises, and the machine's cores.
 * - A commit each second, as Flink's checkpoints; by default it commits ten times a second, which costs more.
 * - The window store is in memory (its changelog is not): the state is small, and RocksDB would be slower.
 * - Every commit writes the counts above the threshold that have changed, which is the worker's mode Updates without
 *   waiting for the window's end. Waiting for it (suppress) would lose most of the last windows: a catch-up ends with a
 *   record that is a minute younger, and stream time is the maximum over all partitions, however far each was read.
 *   Even so, counts of a partition that is read 40 s of event time behind another are dropped.
 * - Fetches of up to 4 MB a partition, 10,000 records a poll and in each buffer: fewer turns of the loop.
 * - Records are parsed once, in the deserializer; the timestamp extractor takes what it found.
 */
final class KafkaStreamsPeer {
    public static void main(String[] args) {
        Passes.run(args, KafkaStreamsPeer::start);
    }

    private static AutoCloseable start(Passes.Pass pass) {
        KafkaStreams streams = new KafkaStreams(topology(pass), settings(pass));
        streams.setStateListener((now, before) -> {
            if (now == KafkaStreams.State.RUNNING) {
                pass.reads();
            }
        });
        streams.start();
        return () -> {
            streams.close(new KafkaStreams.CloseOptions().leaveGroup(true).timeout(Duration.ofSeconds(30)));
            streams.cleanUp();
        };
    }

    private static Topology topology(Passes.Pass pass) {
        Duration window = Duration.ofMillis(Result.WINDOW_MS);
        Duration grace = Duration.ofMillis(Result.ALLOWED_LATENESS_MS);
        Serde<LogRecord> records = Serdes.serdeFrom(
                (topic, record) -> {
                    throw new UnsupportedOperationException("records are only read");
                },
                deserializer());
        StreamsBuilder builder = new StreamsBuilder();
        builder.stream(pass.input(), Consumed.with(Serdes.ByteArray(), records)
                        .withTimestampExtractor((record, before) -> ((LogRecord) record.value()).timestamp))
                .filter((key, record) -> record.crashedUser != null)
                .map((key, record) -> KeyValue.pair(record.crashedUser, ""))
                .groupByKey(Grouped.with("crashes", Serdes.String(), Serdes.String()))
                .windowedBy(TimeWindows.ofSizeAndGrace(window, grace))
                .count(Materialized
                        .<String, Long>as(Stores.inMemoryWindowStore("counts", window.plus(grace), window, false))
                        .withKeySerde(Serdes.String())
                        .withValueSerde(Serdes.Long())
                        .withCachingEnabled())
                .toStream()
                .filter((windowed, count) -> count > Result.THRESHOLD)
                .map((windowed, count) -> {
                    long startMs = windowed.window().start();
                    String user = windowed.key();
                    return KeyValue.pair(Result.key(user, startMs), Result.value(user, startMs, count));
                })
                .to(pass.output(), Produced.with(Serdes.String(), Serdes.String()));
        return builder.build();
    }

    private static Deserializer<LogRecord> deserializer() {
        return (topic, json) -> {
            try {
                return LogRecord.parse(json);
            } catch (IOException failed) {
                throw new SerializationException("a record that is no JSON", failed);
            }
        };
    }

    private static Properties settings(Passes.Pass pass) {
        Properties settings = new Properties();
        settings.put(StreamsConfig.APPLICATION_ID_CONFIG, pass.output());
        settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, pass.bootstrap());
        settings.put(StreamsConfig.STATE_DIR_CONFIG, pass.state().toString());
        settings.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.EXACTLY_ONCE_V2);
        settings.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 2);
        settings.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, 1000);
        settings.put(StreamsConfig.REPLICATION_FACTOR_CONFIG, 1);
        settings.put(StreamsConfig.BUFFERED_RECORDS_PER_PARTITION_CONFIG, 10_000);
        settings.put(StreamsConfig.mainConsumerPrefix(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG), "earliest");
        settings.put(StreamsConfig.mainConsumerPrefix(ConsumerConfig.MAX_POLL_RECORDS_CONFIG), 10_000);
        settings.put(StreamsConfig.mainConsumerPrefix(ConsumerConfig.MAX_PARTITION_FETCH_BYTES_CONFIG), 4 << 20);
        settings.put(StreamsConfig.producerPrefix(ProducerConfig.BATCH_SIZE_CONFIG), 64 << 10);
        return settings;
    }

    private KafkaStreamsPeer() {}
}
