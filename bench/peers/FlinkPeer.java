import java.io.IOException;
import java.time.Duration;
import java.util.concurrent.TimeUnit;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.functions.AggregateFunction;
import org.apache.flink.api.common.serialization.AbstractDeserializationSchema;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.api.java.tuple.Tuple2;
import org.apache.flink.configuration.CheckpointingOptions;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.configuration.RestartStrategyOptions;
import org.apache.flink.connector.base.DeliveryGuarantee;
import org.apache.flink.connector.kafka.sink.KafkaSink;
import org.apache.flink.connector.kafka.source.KafkaSource;
import org.apache.flink.connector.kafka.source.enumerator.initializer.OffsetsInitializer;
import org.apache.flink.core.execution.CheckpointingMode;
import org.apache.flink.core.execution.JobClient;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.windowing.ProcessWindowFunction;
import org.apache.flink.streaming.api.windowing.assigners.TumblingEventTimeWindows;
import org.apache.flink.streaming.api.windowing.windows.TimeWindow;
import org.apache.flink.util.Collector;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.clients.producer.ProducerRecord;

/**
 * The query in Flink's DataStream API, in a cluster inside this JVM.
 *
 * Responsible for the job and for settings under which it does its best. Must never write a result outside of a
 * transaction.
 *
 * The settings, and why:
 * - Parallelism 2: the machine's cores. Object reuse: no copies between the operators of a chain, and everything up to
 *   the key is one chain, so that only crashes are serialized.
 * - A checkpoint each second, which is when transactions are committed; the state lies on the heap (hashmap), the
 *   checkpoints in files.
 * - Watermarks of each partition by itself, 2 s behind its youngest record, a partition idle after 5 s, 30 s allowed
 *   lateness: as the worker is configured. The trigger fires at the window's end and at each late record, which is the
 *   worker's mode Updates.
 * - Fetches of up to 4 MB a partition and 5,000 records a poll: fewer handovers from the fetching thread.
 * - Records are parsed once, in the deserializer, by Jackson's streaming parser.
 */
public final class FlinkPeer {
    /** The one pass that runs; the job's tasks are in this JVM. */
    private static volatile Passes.Pass current;

    public static void main(String[] args) {
        Passes.run(args, FlinkPeer::start);
    }

    private static AutoCloseable start(Passes.Pass pass) throws Exception {
        current = pass;
        StreamExecutionEnvironment environment =
                StreamExecutionEnvironment.createLocalEnvironment(2, settings(pass));
        environment.getConfig().enableObjectReuse();
        environment.enableCheckpointing(1000, CheckpointingMode.EXACTLY_ONCE);
        WatermarkStrategy<LogRecord> watermarks = WatermarkStrategy
                .<LogRecord>forBoundedOutOfOrderness(Duration.ofSeconds(2))
                .withTimestampAssigner((record, before) -> record.timestamp)
                .withIdleness(Duration.ofSeconds(5));
        environment.fromSource(source(pass), watermarks, "input")
                .filter(record -> record.crashedUser != null)
                .map(record -> record.crashedUser).returns(Types.STRING)
                .keyBy(user -> user)
                .window(TumblingEventTimeWindows.of(Duration.ofMillis(Result.WINDOW_MS)))
                .allowedLateness(Duration.ofMillis(Result.ALLOWED_LATENESS_MS))
                .aggregate(new Count(), new AboveThreshold())
                .sinkTo(sink(pass));
        JobClient job = environment.executeAsync(pass.output());
        return () -> {
            job.cancel().get(30, TimeUnit.SECONDS);
            environment.close();
        };
    }

    private static Configuration settings(Passes.Pass pass) {
        Configuration settings = new Configuration();
        settings.set(CheckpointingOptions.CHECKPOINT_STORAGE, "filesystem");
        settings.set(CheckpointingOptions.CHECKPOINTS_DIRECTORY, pass.state().toUri().toString());
        // A job that fails is to be seen, not to be tried again.
        settings.set(RestartStrategyOptions.RESTART_STRATEGY, "none");
        return settings;
    }

    private static KafkaSource<LogRecord> source(Passes.Pass pass) {
        return KafkaSource.<LogRecord>builder()
                .setBootstrapServers(pass.bootstrap())
                .setTopics(pass.input())
                .setGroupId(pass.output())
                .setStartingOffsets(OffsetsInitializer.earliest())
                .setProperty(ConsumerConfig.MAX_PARTITION_FETCH_BYTES_CONFIG, Integer.toString(4 << 20))
                .setProperty(ConsumerConfig.MAX_POLL_RECORDS_CONFIG, "5000")
                .setValueOnlyDeserializer(new Parse())
                .build();
    }

    private static KafkaSink<Tuple2<String, String>> sink(Passes.Pass pass) {
        String output = pass.output();
        return KafkaSink.<Tuple2<String, String>>builder()
                .setBootstrapServers(pass.bootstrap())
                .setDeliveryGuarantee(DeliveryGuarantee.EXACTLY_ONCE)
                .setTransactionalIdPrefix(output)
                .setProperty(ProducerConfig.TRANSACTION_TIMEOUT_CONFIG, "60000")
                .setRecordSerializer((result, context, timestamp) ->
                        new ProducerRecord<>(output, Result.bytes(result.f0), Result.bytes(result.f1)))
                .build();
    }

    /** Reads records. */
    public static final class Parse extends AbstractDeserializationSchema<LogRecord> {
        private static final long serialVersionUID = 1;

        @Override
        public void open(InitializationContext context) {
            current.reads();
        }

        @Override
        public LogRecord deserialize(byte[] json) throws IOException {
            return LogRecord.parse(json);
        }
    }

    /** Counts. */
    public static final class Count implements AggregateFunction<String, Long, Long> {
        private static final long serialVersionUID = 1;

        @Override
        public Long createAccumulator() {
            return 0L;
        }

        @Override
        public Long add(String user, Long count) {
            return count + 1;
        }

        @Override
        public Long getResult(Long count) {
            return count;
        }

        @Override
        public Long merge(Long one, Long other) {
            return one + other;
        }
    }

    /** Makes results of counts. */
    public static final class AboveThreshold
            extends ProcessWindowFunction<Long, Tuple2<String, String>, String, TimeWindow> {
        private static final long serialVersionUID = 1;

        @Override
        public void process(
                String user, Context context, Iterable<Long> counts, Collector<Tuple2<String, String>> out) {
            long count = counts.iterator().next();
            if (count > Result.THRESHOLD) {
                long startMs = context.window().getStart();
                out.collect(Tuple2.of(Result.key(user, startMs), Result.value(user, startMs, count)));
            }
        }
    }

    private FlinkPeer() {}
}
